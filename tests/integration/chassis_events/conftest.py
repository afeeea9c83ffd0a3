"""Fixtures: a broker of the test's own, which it may stop, kill and start again."""

import os
import signal
from collections.abc import Iterator

import pytest

from deploy.local import kafka, processes
from deploy.local.state import State


class OwnBroker:
    """An Apache Kafka process; its address stays the same over restarts."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.address = kafka.start(state)

    def freeze(self) -> None:
        """Stop the process without closing its connections: a silent broker."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it stood."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once."""
        self._signal(signal.SIGKILL)

    def start(self) -> None:
        """Start it with the data that it has, unless it runs."""
        kafka.start(self._state)

    def halt(self) -> None:
        """Stop it in order."""
        kafka.halt(self._state)

    def _signal(self, what: signal.Signals) -> None:
        record = processes.running(self._state, kafka.PART)
        assert record is not None
        os.kill(record.pid, what)


@pytest.fixture(scope="session")
def own_broker_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    broker = OwnBroker(State(tmp_path_factory.mktemp("own-broker")))
    try:
        yield broker
    finally:
        broker.halt()


@pytest.fixture
def own_broker(own_broker_process: OwnBroker) -> OwnBroker:
    own_broker_process.start()  # an earlier test may have killed it
    return own_broker_process
