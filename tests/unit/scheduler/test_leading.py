"""When a process stands for the lead; and a pass that meets a bug ends no process."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.chassis.db.lease import HeldLease, LeaseKeeper
from services.chassis.errors import Unavailable
from services.chassis.events.projection import CompactedProjection
from services.chassis.purges import PurgesLoop
from services.chassis.waking import Waking
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.entrypoints.loops.leading import Candidacy, LeaderLoop, WhileLeading
from services.scheduler.entrypoints.loops.scheduling import SchedulingLoop
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import (
    CycleReport,
    RunSchedulingCycle,
)

NEVER = timedelta(hours=1)
KEEPER = cast("LeaseKeeper", SimpleNamespace(held=HeldLease("scheduling", "proc_1", 1)))
BUGS = [AssertionError("a row that nobody expected"), KeyError("job_1"), Unavailable("database")]


class Pass:
    """Fails at first, as it is told; then finds nothing, and ends its loop."""

    def __init__(self, failure: Exception, finds: Any) -> None:
        self.stopping = asyncio.Event()
        self._failures = [failure]
        self._finds = finds

    async def __call__(self, *_: object) -> Any:
        if self._failures:
            raise self._failures.pop()
        self.stopping.set()
        return self._finds


NOTHING = CycleReport(
    dict.fromkeys(OwnerKind, 0), [], is_cut=False, admitted=[], is_line_right=True
)


def leader(look: Pass, waking: Waking) -> Callable[[asyncio.Event], Awaitable[None]]:
    return LeaderLoop(WhileLeading(look, KEEPER), waking, done="done", failed="failed").run


def scheduling(look: Pass, waking: Waking) -> Callable[[asyncio.Event], Awaitable[None]]:
    cycle = cast("RunSchedulingCycle", look)
    return SchedulingLoop(cycle, KEEPER, waking, lambda: True, lambda _: None).run


def purges(look: Pass, waking: Waking) -> Callable[[asyncio.Event], Awaitable[None]]:
    return PurgesLoop(look, waking, what="rows").run


@pytest.mark.parametrize("failure", BUGS, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize(
    ("loop", "finds"),
    [(leader, 0), (scheduling, NOTHING), (purges, 0)],
    ids=["leader", "scheduling", "purges"],
)
async def test_pass_that_fails_in_whatever_way_is_taken_again(
    loop: Callable[[Pass, Waking], Callable[[asyncio.Event], Awaitable[None]]],
    finds: Any,
    failure: Exception,
) -> None:
    look = Pass(failure, finds)
    await loop(look, Waking(timedelta(milliseconds=1)))(look.stopping)
    assert look.stopping.is_set()


async def test_a_pass_that_found_all_it_may_is_followed_at_once() -> None:
    stopping = asyncio.Event()
    finds = iter([2, 2, 1])
    looks = 0

    async def look(_: HeldLease) -> int:
        nonlocal looks
        looks += 1
        if looks == 3:
            stopping.set()
        return next(finds)

    loop = LeaderLoop(WhileLeading(look, KEEPER), Waking(NEVER), done="", failed="", pass_max=2)
    await loop.run(stopping)
    assert looks == 3


class Picture:
    """The tenants, known from when a test says so."""

    def __init__(self) -> None:
        self.known = asyncio.Event()

    @property
    def is_caught_up(self) -> bool:
        return self.known.is_set()

    async def caught_up(self) -> None:
        await self.known.wait()


class Keeper:
    """Notes that it was asked to keep the lease."""

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()

    async def run(self, stopping: asyncio.Event) -> None:
        self.is_asked.set()
        await stopping.wait()


def candidacy(keeper: Keeper, picture: Picture, *, lets_others: timedelta) -> Candidacy:
    return Candidacy(cast("LeaseKeeper", keeper), cast("CompactedProjection", picture), lets_others)


async def test_others_may_lead_until_this_process_could_admit() -> None:
    keeper, picture, stopping = Keeper(), Picture(), asyncio.Event()
    standing = candidacy(keeper, picture, lets_others=timedelta(hours=1))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(standing.run(stopping))
        await asyncio.sleep(0)
        assert not keeper.is_asked.is_set()
        picture.known.set()
        await keeper.is_asked.wait()
        stopping.set()


async def test_somebody_leads_even_if_nobody_could_admit() -> None:
    keeper, stopping = Keeper(), asyncio.Event()
    standing = candidacy(keeper, Picture(), lets_others=timedelta(milliseconds=1))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(standing.run(stopping))
        await keeper.is_asked.wait()
        stopping.set()


async def test_process_that_is_told_to_stop_waits_for_no_tenants() -> None:
    stopping = asyncio.Event()
    stopping.set()
    await candidacy(Keeper(), Picture(), lets_others=timedelta(hours=1)).run(stopping)
