"""The leader's loops: who acts, and when."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from services.chassis.db.lease import LeaseKeeper, Recurrence
from services.chassis.waking import Waking
from services.scheduler.adapters.postgres.tables import CHASSIS
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.attempts.work import AttemptWork
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.jobs.spec import JobTimeouts
from services.scheduler.entrypoints.loops.deployments import TendDeployments
from services.scheduler.entrypoints.loops.leading import LeaderLoop, WhileLeading
from services.scheduler.entrypoints.loops.scheduling import SchedulingLoop
from services.scheduler.use_cases.deployments.republish_routes import RepublishRoutes
from tests.integration.scheduler.yard import Yard

NEVER = timedelta(hours=1)


@pytest.fixture
async def keeper(yard: Yard) -> AsyncIterator[LeaseKeeper]:
    keeper = yard.lease_keeper("proc_1")
    yield keeper
    await keeper.release()


def deployments_loop(yard: Yard, keeper: LeaseKeeper) -> LeaderLoop:
    tend = TendDeployments(
        yard.reconcile,
        RepublishRoutes(yard.store, batch_max=10),
        Recurrence(timedelta(minutes=10), yard.clock),
    )
    return LeaderLoop(WhileLeading(tend, keeper), Waking(NEVER), done="told", failed="failed")


def passed_over(_: Sequence[AttemptWork]) -> None:
    """Leave what was admitted to whoever reads it."""


async def test_only_the_leader_schedules(yard: Yard, keeper: LeaseKeeper) -> None:
    await yard.a_node()
    job = await yard.a_job()
    loop = SchedulingLoop(yard.run_cycle, keeper, Waking(NEVER), lambda: True, passed_over)

    await loop.turn()
    assert (await yard.job(job.id)).state is JobState.QUEUED

    await keeper.acquire()
    await loop.turn()
    assert (await yard.job(job.id)).state is JobState.ADMITTED


async def test_what_was_admitted_is_offered_as_the_runner_would_read_it(
    yard: Yard, keeper: LeaseKeeper
) -> None:
    await yard.a_node()
    await yard.a_deployment()
    await yard.reconcile(await yard.lease())
    await yard.a_job(env={"A": "1"}, timeouts=JobTimeouts(start=timedelta(minutes=1)))
    await keeper.acquire()
    offered: list[AttemptWork] = []

    await SchedulingLoop(yard.run_cycle, keeper, Waking(NEVER), lambda: True, offered.extend).turn()

    assert {work.attempt.owner.kind for work in offered} == set(OwnerKind)
    assert {work.attempt.id: work for work in offered} == {
        work.attempt.id: work for work in await yard.open_work()
    }


async def test_nothing_is_admitted_before_all_tenants_are_known(
    yard: Yard, keeper: LeaseKeeper
) -> None:
    await yard.a_node()
    job = await yard.a_job()
    await keeper.acquire()
    known = [False, True]
    loop = SchedulingLoop(yard.run_cycle, keeper, Waking(NEVER), lambda: known.pop(0), passed_over)

    await loop.turn()
    assert (await yard.job(job.id)).state is JobState.QUEUED
    await loop.turn()
    assert (await yard.job(job.id)).state is JobState.ADMITTED


async def test_a_leader_that_lost_its_lease_unawares_changes_nothing(
    yard: Yard, keeper: LeaseKeeper
) -> None:
    await yard.a_node()
    job = await yard.a_job()
    await keeper.acquire()
    async with yard.engine.begin() as connection:  # another has taken over meanwhile
        await connection.execute(CHASSIS.lease.update().values(epoch=9, holder="proc_2"))

    await SchedulingLoop(yard.run_cycle, keeper, Waking(NEVER), lambda: True, passed_over).turn()

    assert (await yard.job(job.id)).state is JobState.QUEUED


async def test_routes_are_published_again_when_leading_begins_and_every_ten_minutes(
    yard: Yard, keeper: LeaseKeeper
) -> None:
    made = await yard.a_deployment()
    loop = deployments_loop(yard, keeper)

    async def published_count() -> int:
        await loop.turn()
        return len(await yard.routes(made.deployment.id)) - 1  # without its creation's

    assert await published_count() == 0  # not leading
    await keeper.acquire()
    assert await published_count() == 1
    assert await published_count() == 1
    yard.clock.seconds = 600
    assert await published_count() == 2


async def test_a_loop_that_was_woken_looks_at_once() -> None:
    waking = Waking(NEVER)
    waking.wake()
    waking.wake()
    await waking.wait()


async def test_a_loop_that_nobody_wakes_looks_by_itself() -> None:
    await Waking(timedelta(milliseconds=1)).wait()


async def test_a_loop_that_is_told_to_stop_does_so_at_once(yard: Yard, keeper: LeaseKeeper) -> None:
    scheduling = SchedulingLoop(yard.run_cycle, keeper, Waking(NEVER), lambda: True, passed_over)
    reconciling = deployments_loop(yard, keeper)
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(scheduling.run(stopping))
        tasks.create_task(reconciling.run(stopping))
        stopping.set()
