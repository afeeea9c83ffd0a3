"""Jobs are deleted some time after their end, on a real database."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from services.chassis.errors import Conflict, NotFound
from services.scheduler.adapters.postgres import leavings
from services.scheduler.adapters.postgres.tables import ATTEMPTS, JOBS
from services.scheduler.domain.jobs.job import Job
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.jobs.delete_ended_jobs import DeleteEndedJobs
from services.scheduler.use_cases.ports import RequestKey
from tests.integration.scheduler.yard import Yard
from tests.unit.scheduler.builders import ACME, TRACEPARENT, UMBRELLA, a_spec, resources

KEPT = timedelta(days=30)


async def deleted(yard: Yard) -> int:
    """Run one pass as the leader."""
    return await DeleteEndedJobs(yard.store, KEPT, jobs_per_pass_max=2)(await yard.lease())


async def ended(yard: Yard, job: Job, *, ago: timedelta) -> Job:
    """Let a job have been cancelled so long ago."""
    await CancelJob(yard.store)(job.tenant, job.id, reason="enough")
    async with yard.engine.begin() as connection:
        await connection.execute(
            sa.update(JOBS)
            .where(JOBS.c.id == job.id)
            .values(ended_at=sa.func.clock_timestamp() - ago)
        )
    return job


async def test_job_is_deleted_with_its_attempts_when_its_time_is_over(yard: Yard) -> None:
    await yard.a_node()
    job = await yard.a_job()
    await yard.cycle()
    [work] = await yard.open_work()
    await yard.end(work.attempt.id)
    async with yard.store.system(because="test") as tx:
        found = await tx.jobs.get_any(job.id)
        found, fact = found.requeued(reason="again", at=tx.now)
        await tx.jobs.save(found)
        tx.emit(fact)
    await ended(yard, job, ago=KEPT)

    assert await deleted(yard) == 1

    with pytest.raises(NotFound):
        await yard.job(job.id)
    async with yard.engine.connect() as connection:
        assert await connection.scalar(sa.select(sa.func.count()).select_from(ATTEMPTS)) == 0
    assert (await yard.event_types(job.id))[-1] == "job.cancelled"  # its facts leave nevertheless
    await yard.check()


async def test_what_ended_lately_or_not_at_all_stays(yard: Yard) -> None:
    await yard.a_node()
    running = await yard.a_job()
    await yard.cycle()
    waiting = await yard.a_job(tenant=UMBRELLA)
    late = await ended(yard, await yard.a_job(), ago=KEPT - timedelta(minutes=1))

    assert await deleted(yard) == 0

    for job in (running, late):
        await yard.job(job.id)
    await yard.job(waiting.id, tenant=UMBRELLA)


async def test_pass_deletes_a_bounded_number_the_first_to_end_first(yard: Yard) -> None:
    jobs = [
        await ended(yard, await yard.a_job(), ago=KEPT + timedelta(days=days)) for days in range(3)
    ]
    assert await deleted(yard) == 2
    await yard.job(jobs[0].id)
    assert [await deleted(yard) for _ in range(2)] == [1, 0]


async def test_pass_deletes_so_many_attempts_at_most_but_one_job_always(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leavings, "_ATTEMPTS_MAX", 2)
    await yard.a_node(resources(cpu=16, memory=16))
    jobs = [await yard.a_job(task_count=count) for count in (1, 1, 3)]
    await yard.cycle()
    for work in await yard.open_work():
        await yard.end(work.attempt.id)
    async with yard.store.system(because="test") as tx:
        for job in jobs:
            found, fact = (await tx.jobs.get_any(job.id)).requeued(reason="again", at=tx.now)
            await tx.jobs.save(found)
            tx.emit(fact)
    for days, job in enumerate(jobs):
        await ended(yard, job, ago=KEPT + timedelta(days=days))

    assert [await deleted(yard) for _ in range(3)] == [1, 2, 0]
    async with yard.engine.connect() as connection:
        assert await connection.scalar(sa.select(sa.func.count()).select_from(ATTEMPTS)) == 0


async def test_repeated_submission_of_a_deleted_job_makes_no_second_one(yard: Yard) -> None:
    key = RequestKey("key-1", b"hash")

    async def submit() -> Job:
        return await yard.submit_job(ACME, a_spec(), key=key, traceparent=TRACEPARENT)

    await ended(yard, await submit(), ago=KEPT)
    await deleted(yard)
    with pytest.raises(NotFound):
        await submit()


async def test_only_the_leader_deletes(yard: Yard) -> None:
    job = await ended(yard, await yard.a_job(), ago=KEPT)
    former = await yard.lease(ttl_s=0)
    await yard.lease(holder="proc_2")
    with pytest.raises(Conflict):
        await DeleteEndedJobs(yard.store, KEPT, jobs_per_pass_max=2)(former)
    await yard.job(job.id)
