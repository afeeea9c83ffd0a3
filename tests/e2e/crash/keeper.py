"""Lets services die, each at a step at which it has not died yet, and starts them again.

A round: all services are armed; one or more die, and are started again with no arms; a fresh job
tells when all is well again. Where nobody died in time, all are begun anew under arms, for some
steps are reached at a start alone.

Owns: the services' lives. Always holds: when the block is left each is one that nobody has armed.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from deploy.local import processes
from deploy.local.state import ProcessRecord
from tests.e2e.crash.armed import KILLED
from tests.e2e.crash.steps import ROOT
from tests.e2e.platform import Platform
from tests.support.eventually import is_within

_LOOK_S: Final = 1.0
_ROUND_S_MAX: Final = 20.0
"""Until somebody dies; then all are begun anew, and given as long again."""
_TOGETHER_S: Final = 2.0
"""For others to die beside the first one."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A service died at a step, at an instant of the system's clock."""

    step: str
    at: float


@dataclass(slots=True)
class Keeper:
    """Keeps one service, whatever it dies of."""

    platform: Platform
    service: str
    folder: Path
    left: set[str]
    """Steps at which it has not died yet."""
    kills: list[Kill] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)
    """Steps that it has passed alive."""
    strange: list[str] = field(default_factory=list)
    """Ends that nobody has brought about."""
    _is_begun_anew: bool = False

    def arm(self) -> None:
        """Let it die at the next step of those that are left."""
        self._at.write_text("\n".join(sorted(self.left)))

    def disarm(self) -> None:
        """Let it live."""
        self._at.write_text("")

    def begin_anew(self) -> None:
        """Kill it wherever it is, to start it under arms."""
        self._is_begun_anew = True
        self.arm()
        if (record := processes.running(self.platform.state, self.service)) is not None:
            os.kill(record.pid, signal.SIGKILL)

    def live(self, over: threading.Event) -> None:
        """Live and die until told."""
        program = self._program()
        self.platform.end(self.service)
        self.disarm()
        while not over.is_set():
            self._notes.write_text("")
            record = processes.launch(self.platform.state, program)
            died = partial(_is_dead, record)
            while not over.is_set() and not is_within(died, within_s=_LOOK_S):
                pass
            self._read(has_died=died())
        if processes.running(self.platform.state, self.service) is not None:
            self.platform.end(self.service)

    @property
    def _at(self) -> Path:
        return self.folder / "at"

    @property
    def _notes(self) -> Path:
        return self.folder / "notes"

    def _program(self) -> processes.Program:
        return processes.Program(
            part=self.service,
            command=[sys.executable, "-m", "tests.e2e.crash.armed", self.service],
            address=self.platform.address_of(self.service),
            environment=self.platform.environment_of(self.service)
            | {
                "PYTHONPATH": str(ROOT),
                "CRASH_AT": str(self._at),
                "CRASH_NOTES": str(self._notes),
            },
            folder=self.platform.state.folder(self.service),
        )

    def _read(self, *, has_died: bool) -> None:
        notes = self._notes.read_text().splitlines()
        killed = [line.split()[1:] for line in notes if line.startswith(KILLED)]
        self.passed |= {line for line in notes if not line.startswith(KILLED)}
        for step, at in killed:
            self.disarm()
            self.left.discard(step)
            self.kills.append(Kill(step, float(at)))
        is_begun_anew, self._is_begun_anew = self._is_begun_anew, False
        if has_died and not killed and not is_begun_anew:
            log = self.platform.state.read().processes[self.service].log
            self.strange.append(f"{self.service} ended by itself: {processes.tail(log)}")


def _is_dead(record: ProcessRecord) -> bool:
    return not processes.is_alive(record)


@contextlib.contextmanager
def dying(platform: Platform, folder: Path, steps: Collection[str]) -> Iterator[Sequence[Keeper]]:
    """Keep services that can be armed while the block runs; afterwards all of them run on."""
    services = sorted({step.split(".")[0] for step in steps})
    keepers = []
    for service in services:
        (folder / service).mkdir()
        own = {step for step in steps if step.startswith(f"{service}.")}
        keepers.append(Keeper(platform, service, folder / service, own))
    over = threading.Event()
    with ThreadPoolExecutor(max_workers=len(keepers)) as pool:
        lives = [pool.submit(keeper.live, over) for keeper in keepers]
        try:
            yield keepers
        finally:
            over.set()
            for life in lives:
                life.result()
    platform.start_again()


def struck(
    keepers: Sequence[Keeper], *, within_s: float, is_well: Callable[[], object]
) -> list[float]:
    """Let services die round by round; return how long after its last kill all was well again.

    `is_well` returns once a fresh job has ended.
    """
    ends_at_s = time.monotonic() + within_s
    recoveries_s: list[float] = []
    while any(keeper.left for keeper in keepers) and time.monotonic() < ends_at_s:
        before = _kill_count(keepers)
        for keeper in keepers:
            keeper.arm()
        if not is_within(lambda: _kill_count(keepers) > before, within_s=_ROUND_S_MAX):  # noqa: B023
            for keeper in keepers:
                keeper.begin_anew()
            is_within(lambda: _kill_count(keepers) > before, within_s=_ROUND_S_MAX)  # noqa: B023
        if (count := _kill_count(keepers)) == before:
            continue
        is_within(lambda: _kill_count(keepers) >= count + len(keepers), within_s=_TOGETHER_S)
        for keeper in keepers:
            keeper.disarm()
        is_well()
        last_at = max(kill.at for keeper in keepers for kill in keeper.kills)
        recoveries_s.append(time.time() - last_at)
    return recoveries_s


def _kill_count(keepers: Sequence[Keeper]) -> int:
    return sum(len(keeper.kills) for keeper in keepers)
