"""A Docker engine for tests to use and to break, with the platform's images on it.

Owns: whose engine is whose. Each test process takes a free one of the checkout's for itself, since
its tests stop, kill and freeze it; the next one finds the images that are there. A run with several
workers gives all these tests to one of them, so one engine does. The kernel gives back the lock of
a process that has crashed, and whoever takes its engine over ends what is left.
"""

import fcntl
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from deploy.local import images, own_engine, processes
from deploy.local.errors import StackError
from deploy.local.own_engine import OwnEngine
from deploy.local.state import CHECKOUT
from tests.support.eventually import until

_TOOLS: Final = CHECKOUT / ".modelyard"
_RUNTIMES_VARIABLE: Final = "MODELYARD_TEST_RUNTIMES"
_WITHOUT: Final = f"Without Docker: {_RUNTIMES_VARIABLE}=process make test"
_AGAIN_WITHIN_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class DockerEngine:
    """A running engine. What a test does to it is undone at the end of each block."""

    own: OwnEngine

    @property
    def url(self) -> str:
        """Where the engine listens."""
        return self.own.engine.url

    @property
    def root_dir(self) -> Path:
        """The engine's folder; containers' output lies in `containers` below it."""
        return self.own.data

    @property
    def images(self) -> Mapping[str, str]:
        """The platform's images, by name."""
        return {name: images.reference(name) for name in images.NAMES}

    @property
    def pid(self) -> int:
        """The engine's process."""
        record = self.own.record
        assert record is not None, "the engine does not run"
        return record.pid

    @contextmanager
    def stopped(self, how: signal.Signals = signal.SIGTERM) -> Iterator[None]:
        """Run the block while the engine is gone, asked to end or killed; containers run on."""
        record = self.own.record
        assert record is not None, "the engine does not run"
        os.kill(record.pid, how)
        until(
            lambda: not processes.is_alive(record),
            what=f"the engine ends after {how.name}",
            within_s=60,
        )
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Run the block while the engine accepts connections and answers none."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: _is_frozen(pid), what="every thread of the engine has stopped")
            yield
        finally:
            os.kill(pid, signal.SIGCONT)
            until(self.own.engine.answers, what="the engine answers", within_s=_AGAIN_WITHIN_S)

    def start(self) -> None:
        """Start the engine again, on its socket and with its containers."""
        self.own.start()

    def things(self, scope: str) -> dict[str, list[str]]:
        """Return a stack's containers and networks, and all volumes: those would bear no label."""
        label = f"modelyard.scope={scope}"
        networks = self._asked("/networks", filters=_labelled(label))
        volumes = self._asked("/volumes")["Volumes"] or ()
        return {
            "containers": [f"{each['Names'][0]} {each['State']}" for each in self._those_of(label)],
            "networks": [each["Name"] for each in networks],
            "volumes": [each["Name"] for each in volumes],
        }

    def process_of(self, label: str) -> int:
        """Return the first process of the container that bears a label."""
        [found] = self._those_of(label)
        return int(self._asked(f"/containers/{found['Id']}/json")["State"]["Pid"])

    def _those_of(self, label: str) -> Any:
        return self._asked("/containers/json", all="true", filters=_labelled(label))

    def _asked(self, path: str, **parameters: str) -> Any:
        transport = httpx.HTTPTransport(uds=self.url.removeprefix("unix://"))
        with httpx.Client(transport=transport, base_url="http://engine", timeout=30) as client:
            return client.get(path, params=parameters).raise_for_status().json()


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[DockerEngine]:
    """Give this process's engine. One that can't be had fails its tests, unless it is left out."""
    if not _is_wanted():
        pytest.skip(f"{_RUNTIMES_VARIABLE} leaves Docker out")
    _require_possible()
    with _free_engine() as own:
        images.ensure(own.state, own.start())
        yield DockerEngine(own)
        own.stop()


def prepare() -> None:
    """Install what an engine needs, and build the images on the first."""
    own_engine.install()
    _require_possible()
    own = _engine(1)
    with _taken(own) as is_ours:
        if is_ours:
            images.ensure(own.state, own.start())
            own.stop()


def end_abandoned() -> None:
    """End the engines of test processes that did not live to do it."""
    for folder in sorted(_TOOLS.glob("engine/tests-*")):
        own = OwnEngine.of(_TOOLS, folder.name)
        with _taken(own) as is_ours:
            if is_ours:
                own.stop()


@contextmanager
def _free_engine() -> Iterator[OwnEngine]:
    for number in count(1):
        own = _engine(number)
        with _taken(own) as is_ours:
            if is_ours:
                own.stop()  # of a process that crashed
                yield own
                return


def _labelled(label: str) -> str:
    return json.dumps({"label": [label]})


def _is_frozen(pid: int) -> bool:
    try:
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):  # a thread has just ended
        return False
    return bool(stats) and all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


def _is_wanted() -> bool:
    return "docker" in os.environ.get(_RUNTIMES_VARIABLE, "process docker").split()


def _require_possible() -> None:
    try:
        own_engine.require_possible("Tests break their Docker engine, so it is not this machine's")
    except StackError as error:
        raise StackError(f"{error} {_WITHOUT}") from error


def _engine(number: int) -> OwnEngine:
    return OwnEngine.of(_TOOLS, f"tests-{number}")


@contextmanager
def _taken(own: OwnEngine) -> Iterator[bool]:
    """Hold an engine for this process; False if another process does."""
    with (own.state.folder() / "test.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


if __name__ == "__main__":
    try:
        if _is_wanted():
            prepare()
    except StackError as error:
        sys.exit(str(error) if _WITHOUT in str(error) else f"{error} {_WITHOUT}")
