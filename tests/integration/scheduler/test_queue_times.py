"""What stands in line, and for how long, on a real database."""

from dataclasses import replace
from datetime import timedelta

import pytest

from services.chassis.db.errors import LeaseLost
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import Job, JobState
from services.scheduler.domain.jobs.spec import JobTimeouts
from services.scheduler.use_cases.jobs.expire_queued_jobs import ExpireQueuedJobs
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import Outcome
from tests.integration.scheduler.yard import Yard
from tests.unit.scheduler.builders import ACME, UMBRELLA, later

MINUTE = JobTimeouts(queue=timedelta(minutes=1))
LOST = JobFailure(FailureReason.LOST, "gone")


async def lost(yard: Yard, job: Job) -> Job:
    """Do what the runner does when a job's attempt is lost."""
    admitted = await yard.job(job.id, tenant=job.tenant)
    assert admitted.attempt_id is not None
    await yard.end(admitted.attempt_id)
    async with yard.store.system(because="test") as tx:
        found = await tx.jobs.get_any(job.id)
        found, fact = found.retried(LOST, at=tx.now, chance=0.0)
        await tx.jobs.save(found)
        tx.emit(fact)
    return found


async def expire(yard: Yard) -> int:
    return await ExpireQueuedJobs(yard.store, jobs_per_pass_max=2)(await yard.lease())


async def test_a_retry_is_passed_over_until_its_pause_is_over(yard: Yard) -> None:
    await yard.a_node()
    first = await yard.a_job()
    await yard.cycle()
    await lost(yard, first)
    second = await yard.a_job()

    assert await yard.cycle() == [(second.id, Outcome.PLACED)]
    yard.clock.seconds = 5
    await yard.beats(is_runtime_up=True)
    assert await yard.cycle() == [(first.id, Outcome.PLACED)]
    assert (await yard.job(first.id)).attempt_number == 2


async def test_retries_of_a_tenant_are_counted_for_as_long_as_is_asked(yard: Yard) -> None:
    await yard.a_node()
    for _ in range(2):
        job = await yard.a_job()
        await yard.cycle()
        await lost(yard, job)

    async def counted(tenant: str, seconds: float) -> int:
        async with yard.store.system(because="test") as tx:
            return await tx.jobs.retried_count(tenant, since=later(seconds))  # type: ignore[arg-type]

    assert [await counted(ACME, 0), await counted(ACME, 5), await counted(UMBRELLA, 0)] == [2, 0, 0]


async def test_a_job_that_waits_too_long_fails_and_tells_why(yard: Yard) -> None:
    due = [await yard.a_job(timeouts=MINUTE) for _ in range(3)]
    yard.clock.seconds = 59
    assert await expire(yard) == 0

    yard.clock.seconds = 60
    assert [await expire(yard), await expire(yard), await expire(yard)] == [2, 1, 0]

    for each in due:
        job = await yard.job(each.id)
        assert job.state is JobState.FAILED
        assert job.failure is not None
        assert job.failure.reason is FailureReason.QUEUE_TIMEOUT
        assert await yard.event_types(job.id) == ["job.queued", "job.failed"]


async def test_a_job_without_a_bound_waits_on(yard: Yard) -> None:
    job = await yard.a_job()
    yard.clock.seconds = 10**7
    assert await expire(yard) == 0
    assert (await yard.job(job.id)).state is JobState.QUEUED


async def test_time_in_line_does_not_end_what_was_admitted_meanwhile(yard: Yard) -> None:
    await yard.a_node()
    job = await yard.a_job(timeouts=MINUTE)
    await yard.cycle()
    yard.clock.seconds = 60

    assert await expire(yard) == 0
    assert (await yard.job(job.id)).state is JobState.ADMITTED


async def test_a_leader_that_was_replaced_ends_nothing(yard: Yard) -> None:
    job = await yard.a_job(timeouts=MINUTE)
    yard.clock.seconds = 60
    held = await yard.lease()
    late = replace(held, epoch=held.epoch - 1)

    with pytest.raises(LeaseLost):
        await ExpireQueuedJobs(yard.store, jobs_per_pass_max=2)(late)

    assert (await yard.job(job.id)).state is JobState.QUEUED
