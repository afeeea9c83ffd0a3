"""Lets services die, each at a step at which it has not died yet, and starts them again.

A round: all services are armed; one or more die and are started again; a fresh job tells when all
is well again. Some steps are reached at a start alone: a service that has left such ones is started
under arms, and dies again. Others are reached on the way out alone: where nobody died in time,
those services are ended in good order that may have such a step left.

An operator's command is a process of its own: it is started again and again until it has died of
all that is left.

Beside the stack's own scheduler there may be another one with a node of its own, which stays away
after each of its ends for longer than it takes until its node is given up. It dies of that alone
which the stack's own does not reach; and it is ended in good order where nobody died in time, for
what is left may wait until it no longer leads, or until its node is lost.

Owns: the services' lives. Always holds: when the block is left each is one that nobody has armed.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from deploy.local import processes
from deploy.local.state import ProcessRecord
from tests.e2e.crash.armed import KILLED, at_of, notes_of, settings
from tests.e2e.crash.steps import COMMANDS, ROOT
from tests.e2e.platform import ANOTHER_SCHEDULER, Platform
from tests.support.eventually import is_within
from tests.support.schedulers import FIRST

_LOOK_S: Final = 0.5
_ROUND_S_MAX: Final = 20.0
"""Until somebody dies; then some are begun anew, and given as long again."""
_TOGETHER_S: Final = 2.0
"""For others to die beside the first one."""
_BEGINNING_S: Final = 10.0
"""What a process first passes before this age it may do at its start alone."""
_DEATHS_MAX: Final = 4
"""Of a process in a round: all but the first soon after its start."""
_STARTS_S_MAX: Final = 25.0
"""Until a round goes on, though a process that was started under arms lives."""
_AWAY_S: Final = 18.0
"""Longer than a node's lease and the wait for its holder: `conftest` has this test's settings."""
_COMMAND_AWAY_S: Final = 5.0
"""A command that is run all the time would take the machine from the services."""
_END_S_MAX: Final = 90.0
"""Of an end in good order: more than all stages of a shutdown may take."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A service died at a step, at an instant of the system's clock."""

    step: str
    at: float


@dataclass(slots=True)
class Course:
    """How far a service has come, all its processes together."""

    left: frozenset[str]
    """Steps at which none has died yet."""
    passed: frozenset[str] = frozenset()
    """Steps that one has passed alive."""


@dataclass(slots=True)
class Keeper:
    """Keeps one process of a service, whatever it dies of."""

    platform: Platform
    program: processes.Program
    folder: Path
    course: Course
    away_s: float = 0.0
    """For so long it stays dead."""
    is_command: bool = False
    """Its process ends once it has done its work; nothing waits for it."""
    before: "Keeper | None" = None
    """Who is to die of what both reach, since less comes of that."""
    kills: list[Kill] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)
    """Steps that it has passed alive."""
    began_with: frozenset[str] = frozenset()
    """Those that the last of its lives that got beyond its beginning had passed by then."""
    strange: list[str] = field(default_factory=list)
    """Ends that nobody has brought about, and those that did not come."""
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Of who changes what it is to die of."""
    dies_at_start: bool = False
    """It is started under arms, and has not died of them yet."""
    _deaths_left: int = 0
    """Of this round."""
    _is_asked_to_end: bool = False

    @property
    def left(self) -> frozenset[str]:
        """Return the steps that it is to die of."""
        return self.course.left - (frozenset(self.before.passed) if self.before else frozenset())

    @property
    def left_at_start(self) -> frozenset[str]:
        """Return those of them that it passes soon after its start, some of them there alone."""
        return self.left & self.began_with

    def learn(self) -> None:
        """Take in what it has passed so far."""
        ages_s = {note[0]: float(note[1]) for note in self._noted() if note[0] != KILLED}
        self.passed |= ages_s.keys()
        self.course.passed |= ages_s.keys()
        if any(age_s > _BEGINNING_S for age_s in ages_s.values()):
            early = (step for step, age_s in ages_s.items() if age_s <= _BEGINNING_S)
            self.began_with = frozenset(early)

    def arm(self) -> None:
        """Let it die at the next step of those that are left."""
        with self.turn:
            self._deaths_left = _DEATHS_MAX
            self._aim_at(self.left)

    def disarm(self) -> None:
        """Let it live."""
        with self.turn:
            self._deaths_left, self.dies_at_start = 0, False
            self._aim_at(())

    def end(self) -> None:
        """Ask it to end in good order, if that may help; it is begun anew."""
        record = processes.running(self.platform.state, self.program.part)
        is_in_the_way = self.before is not None and self.course.left
        if record is None or not (
            is_in_the_way or self.left_at_start or self.left - self.course.passed
        ):
            return
        self._is_asked_to_end = True
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            os.kill(record.pid, signal.SIGTERM)

    def live(self, over: threading.Event) -> None:
        """Live and die until told."""
        part = self.program.part
        if processes.running(self.platform.state, part) is not None:
            self.platform.end(part)
        while not over.is_set() and (self.course.left or not self.is_command):
            self._notes.write_text("")
            record = processes.launch(self.platform.state, self.program)
            self._see_to_its_end(record, over)
            has_died = _is_dead(record)
            self._read(record, has_died=has_died)
            if has_died:
                over.wait(self.away_s)
        if processes.running(self.platform.state, part) is not None:
            self.platform.end(part)

    def _see_to_its_end(self, record: ProcessRecord, over: threading.Event) -> None:
        asked_for_s = 0.0
        while not over.is_set() and not is_within(partial(_is_dead, record), within_s=_LOOK_S):
            asked_for_s += _LOOK_S if self._is_asked_to_end else 0.0
            if asked_for_s > _END_S_MAX:
                self.strange.append(f"{self.program.part} did not end within {_END_S_MAX:.0f} s")
                asked_for_s = 0.0
                os.kill(record.pid, signal.SIGKILL)

    @property
    def _at(self) -> Path:
        return at_of(self.folder)

    @property
    def _notes(self) -> Path:
        return notes_of(self.folder)

    def _aim_at(self, steps: Collection[str]) -> None:
        fresh = self.folder / "at.fresh"
        fresh.write_text("\n".join(sorted(steps)))
        fresh.replace(self._at)  # whoever reads it meanwhile finds all of it

    def _noted(self) -> Iterator[Sequence[str]]:
        return (line.split() for line in self._notes.read_text().splitlines())

    def _read(self, record: ProcessRecord, *, has_died: bool) -> None:
        self.learn()
        killed = [(note[1], float(note[2])) for note in self._noted() if note[0] == KILLED]
        for step, at in killed:
            self.course.left -= {step}
            self.kills.append(Kill(step, at))
        if killed:
            self._aim_at_start()
        is_asked, self._is_asked_to_end = self._is_asked_to_end, False
        if has_died and not (killed or is_asked or self.is_command):
            end = processes.tail(record.log)
            self.strange.append(f"{self.program.part} ended by itself: {end}")

    def _aim_at_start(self) -> None:
        """After a death: let it die of its start, too, if it may this round, and can."""
        with self.turn:
            self._deaths_left = max(0, self._deaths_left - 1)
            at_start = self.left_at_start if self._deaths_left else frozenset()
            self.dies_at_start = bool(at_start)
            self._aim_at(at_start)


def _is_dead(record: ProcessRecord) -> bool:
    return not processes.is_alive(record)


@contextlib.contextmanager
def dying(
    platform: Platform, folder: Path, steps: Collection[str], *, another_node: str | None
) -> Iterator[Sequence[Keeper]]:
    """Keep services that can be armed while the block runs; afterwards the stack's own run on.

    Without another node there is no other scheduler.
    """
    keepers = []
    for service in sorted({step.split(".")[0] for step in steps}):
        own = frozenset(step for step in steps if step.startswith(f"{service}."))
        environment = platform.environment_of(service)
        for who, command in COMMANDS.items():
            if its := frozenset(step for step in own if step.startswith(f"{who}.")):
                program = _program(platform, folder, service, environment, command=command)
                keepers.append(_keeper(platform, folder, program, Course(its)))
                keepers[-1].is_command, keepers[-1].away_s = True, _COMMAND_AWAY_S
                own -= its
        course = Course(own)
        program = _program(platform, folder, service, environment)
        keepers.append(_keeper(platform, folder, program, course))
        if service == FIRST and another_node is not None:
            program = _program(
                platform,
                folder,
                service,
                platform.another_scheduler(another_node),
                part=ANOTHER_SCHEDULER,
            )
            another = _keeper(platform, folder, program, course)
            another.away_s, another.before = _AWAY_S, keepers[-1]
            keepers.append(another)
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


def _program(
    platform: Platform,
    folder: Path,
    service: str,
    environment: Mapping[str, str],
    *,
    part: str = "",
    command: str = "",
) -> processes.Program:
    part = part or command or service
    return processes.Program(
        part=part,
        command=[sys.executable, "-m", "tests.e2e.crash.armed", service, *command.split()],
        address=platform.address_of(service),
        environment={**environment, "PYTHONPATH": str(ROOT), **settings(folder / part)},
        folder=platform.state.folder(part),
    )


def _keeper(platform: Platform, folder: Path, program: processes.Program, course: Course) -> Keeper:
    own = folder / program.part
    own.mkdir()
    keeper = Keeper(platform, program, own, course)
    notes_of(own).touch()
    keeper.disarm()
    return keeper


def struck(
    keepers: Sequence[Keeper], *, within_s: float, is_well: Callable[[], object]
) -> list[float]:
    """Let services die round by round; return how long after its last kill all was well again.

    `is_well` returns once a fresh job has ended.
    """
    ends_at_s = time.monotonic() + within_s
    recoveries_s: list[float] = []
    while any(keeper.course.left for keeper in keepers) and time.monotonic() < ends_at_s:
        before = _kill_count(keepers)
        for keeper in keepers:
            keeper.learn()
        for keeper in keepers:
            keeper.arm()
        has_struck = partial(_have_died, keepers, before)
        if not is_within(has_struck, within_s=_ROUND_S_MAX):
            for keeper in keepers:
                keeper.end()
        if not is_within(has_struck, within_s=_ROUND_S_MAX):
            continue
        is_within(partial(_have_died, keepers, before + len(keepers)), within_s=_TOGETHER_S)
        is_within(partial(_have_begun, keepers), within_s=_STARTS_S_MAX)
        for keeper in keepers:
            keeper.disarm()
        is_well()
        last_at = max(kill.at for keeper in keepers for kill in keeper.kills)
        recoveries_s.append(time.time() - last_at)
    return recoveries_s


def _have_died(keepers: Sequence[Keeper], count: int) -> bool:
    return sum(len(keeper.kills) for keeper in keepers) > count


def _have_begun(keepers: Sequence[Keeper]) -> bool:
    return not any(keeper.dies_at_start for keeper in keepers)


def _kill_count(keepers: Sequence[Keeper]) -> int:
    return sum(len(keeper.kills) for keeper in keepers)
