"""What can befall a part: it is stopped and started again, or it is frozen and thaws.

Owns: which processes a part is, and that whatever was stopped or frozen here comes back.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from typing_extensions import override

from deploy.local import kafka, own_engine, postgres, processes, redis
from tests.e2e.platform import SERVICES, Platform
from tests.support.docker_engine import DockerEngine
from tests.support.eventually import is_within

ENGINE: Final = own_engine.PART
PARTS: Final = (kafka.PART, postgres.PART, redis.PART, *SERVICES)
"""Those that a stack has whatever its runtime."""


class How(StrEnum):
    """How a part goes away."""

    STOP = "stop"
    FREEZE = "freeze"


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the fault table."""

    part: str
    how: How

    @override
    def __str__(self) -> str:
        """Return the name of its test and of its row."""
        return f"{self.how}-{self.part}"

    def away(self, platform: Platform, engine: DockerEngine | None) -> AbstractContextManager[None]:
        """Return the block in which the part is away; it is back when the block is left."""
        if self.part != ENGINE:
            away = _stopped if self.how is How.STOP else _frozen
            return away(platform, self.part)
        assert engine is not None, "this platform has no engine"
        return engine.stopped() if self.how is How.STOP else engine.frozen()


def faults_of(*parts: str) -> list[Fault]:
    """Return all that can befall these parts."""
    return [Fault(part, how) for part in parts for how in How]


@contextlib.contextmanager
def outage(
    away: AbstractContextManager[None], *, seconds: float, look: Callable[[], None] | None
) -> Iterator[float]:
    """Be away for so long; the block runs from the end of that on, given as an instant.

    `look` is called again and again while the part is away.

    A part that was stopped is being started while the block runs, and has started when it is left.
    """

    def is_over() -> bool:
        if look is not None:
            look()
        return False

    with ThreadPoolExecutor(max_workers=1) as pool, contextlib.ExitStack() as over:
        over.enter_context(away)
        is_within(is_over, within_s=seconds)
        coming_back = pool.submit(over.pop_all().close)
        yield time.monotonic()
        coming_back.result()


@contextlib.contextmanager
def _stopped(platform: Platform, part: str) -> Iterator[None]:
    processes.stop(platform.state, part)
    try:
        yield
    finally:
        platform.start_again()


@contextlib.contextmanager
def _frozen(platform: Platform, part: str) -> Iterator[None]:
    pid = platform.pid_of(part)
    # The parent first: it starts no more of them.
    os.kill(pid, signal.SIGSTOP)
    frozen = _children(pid) if part == postgres.PART else []
    try:
        for child in frozen:
            _signal(child, signal.SIGSTOP)
        yield
    finally:
        for each in (*frozen, pid):
            _signal(each, signal.SIGCONT)


def _children(pid: int) -> Sequence[int]:
    """Return a process's children: PostgreSQL has one a connection, each in its own group."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _signal(pid: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, what)
