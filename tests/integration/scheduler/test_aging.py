"""Waiting adds to priorities, on a real database: everything has its turn some day."""

from dataclasses import replace
from datetime import timedelta

import sqlalchemy as sa

from services.scheduler.adapters.postgres.tables import JOBS
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.scheduling.causes import Hold
from services.scheduler.use_cases.jobs.get_stats import GetStats
from services.scheduler.use_cases.scheduling.age_jobs import AgeJobs
from services.scheduler.use_cases.scheduling.preempt_jobs import PreemptJobs
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import Outcome
from tests.integration.scheduler.yard import NODE_SILENCE_MAX, Yard, cores
from tests.unit.scheduler.builders import ACME

AFTER = timedelta(hours=1)


async def waits(yard: Yard, job: Job, *, longer: timedelta) -> None:
    """Let a job have stood in line for so much longer."""
    async with yard.engine.begin() as connection:
        await connection.execute(
            sa.update(JOBS)
            .where(JOBS.c.id == job.id)
            .values(ages_from=sa.func.clock_timestamp() - longer)
        )


async def age(yard: Yard) -> int:
    age_jobs = AgeJobs(yard.store, yard.tenants, after=AFTER, jobs_per_pass_max=9)
    return await age_jobs(await yard.lease())


async def test_a_job_that_has_waited_for_long_enough_goes_before_larger_priorities(
    yard: Yard,
) -> None:
    small = await yard.a_job(resources=cores(1))
    await yard.cycle()
    for _ in range(3):
        await waits(yard, small, longer=AFTER)
        assert await age(yard) == 1
    large = await yard.a_job(resources=cores(1), priority=2)
    assert (await yard.job(small.id)).priority == 3
    assert (await yard.explain_job(ACME, large.id)).jobs_before == 1
    await yard.check()
    await yard.a_node(cores(1))
    assert await yard.cycle() == [(small.id, Outcome.PLACED)]
    found = await yard.explain_job(ACME, large.id)
    assert (found.reason.hold, found.jobs_before) == (Hold.RESOURCES, 0)
    stats = await GetStats(yard.store)(ACME, window=timedelta(days=1))
    assert [group.priority for group in stats.waits] == [0]
    await yard.check()


async def test_nobody_makes_room_for_what_waiting_has_added(yard: Yard) -> None:
    yard.run_cycle = replace(yard.run_cycle, makes_room=True)
    await yard.a_node(cores(1))
    running = await yard.a_job(resources=cores(1), priority=1)
    await yard.cycle()
    small = await yard.a_job(resources=cores(1))
    preempt = PreemptJobs(yard.store, NODE_SILENCE_MAX)
    for _ in range(5):
        await waits(yard, small, longer=AFTER)
        await age(yard)
    blocked = (await yard.run_cycle(await yard.lease())).blocked
    assert blocked is not None
    assert (blocked.id, blocked.shape.priority) == (small.id, 5)
    assert await preempt(await yard.lease(), blocked) == 0
    assert (await yard.job(running.id)).is_placed


async def test_what_waiting_has_added_protects_who_has_it(yard: Yard) -> None:
    yard.run_cycle = replace(yard.run_cycle, makes_room=True)
    old = await yard.a_job(resources=cores(1))
    for _ in range(3):
        await waits(yard, old, longer=AFTER)
        await age(yard)
    await yard.a_node(cores(1))
    await yard.cycle()
    await yard.a_job(resources=cores(1), priority=3)
    blocked = (await yard.run_cycle(await yard.lease())).blocked
    assert blocked is not None
    assert await PreemptJobs(yard.store, NODE_SILENCE_MAX)(await yard.lease(), blocked) == 0


async def test_a_suspended_tenants_jobs_do_not_age(yard: Yard) -> None:
    job = await yard.a_job(resources=cores(1))
    await waits(yard, job, longer=5 * AFTER)
    yard.tenant(ACME, is_suspended=True)
    assert await age(yard) == 0
    yard.tenant(ACME)
    assert await age(yard) == 1
    assert await age(yard) == 0
    assert (await yard.job(job.id)).priority == 1
