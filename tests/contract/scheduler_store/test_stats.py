"""How a tenant's jobs have fared: percentiles of what waited, ran and ended in a window."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import Attempt, Owner, OwnerKind
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.domain.jobs.job import Job, JobState
from services.scheduler.domain.jobs.stats import JobEnds, JobTimes, JobWaits
from tests.contract.scheduler_store.conftest import Store
from tests.unit.scheduler.builders import ACME, ENDING, NODE, UMBRELLA, a_spec, resources

HOUR = timedelta(hours=1)


async def now(store: Store) -> datetime:
    async with store.unit_of_work.system(because="test") as tx:
        return tx.now


async def a_node(store: Store) -> None:
    async with store.unit_of_work.system(because="test") as tx:
        await tx.nodes.register(
            NODE, resources(cpu=64, memory=64), runtime="process", allows_mixed_tenants=True
        )


async def a_job(store: Store, number: int, *, tenant: TenantId = ACME, **changes: object) -> Job:
    """Store a job as it is after some moves."""
    priority, queue = changes.pop("priority", 50), changes.pop("queue", "default")
    at = changes.pop("at")
    assert isinstance(at, datetime)
    job_id = JobId(f"job_{number:026}")
    spec = a_spec(priority=priority, queue=queue)
    job, _ = Job.queued(job_id, tenant, spec, at=at, traceparent=None)
    job = replace(job, **changes)  # type: ignore[arg-type]
    async with store.unit_of_work.system(because="test") as tx:
        await tx.jobs.add([job])
    return job


async def admitted(store: Store, job: Job, *, number: int = 1) -> None:
    """Create an attempt of a job, now, which has ended when there are others."""
    async with store.unit_of_work.system(because="test") as tx:
        attempt, _ = Attempt.created(
            AttemptId(f"att_{job.id[4:]}_{number}"),
            job.tenant,
            Owner(OwnerKind.JOB, job.id, public_id=job.id),
            number=number,
            node_id=NODE,
            resources=resources(),
            at=tx.now,
            traceparent=None,
        )
        await tx.attempts.add([attempt])
    async with store.unit_of_work.system(because="test") as tx:
        closed, _ = (await tx.attempts.get(attempt.id)).closed(ENDING, at=tx.now)
        await tx.attempts.save(closed)


async def waits(store: Store, *, tenant: TenantId = ACME, limit: int = 100) -> list[JobWaits]:
    since = await now(store) - HOUR
    async with store.unit_of_work(tenant) as tx:
        return list(await tx.jobs.waits(since=since, limit=limit))


async def ends(store: Store, *, since: datetime, limit: int = 100) -> list[JobEnds]:
    async with store.unit_of_work(ACME) as tx:
        return list(await tx.jobs.ends(since=since, limit=limit))


async def test_waits_are_told_by_priority_from_submission_to_the_first_attempt(
    store: Store,
) -> None:
    await a_node(store)
    at = await now(store)
    for number, (priority, minutes) in enumerate([(50, 10), (50, 20), (50, 60), (90, 1)]):
        job = await a_job(store, number, at=at - timedelta(minutes=minutes), priority=priority)
        await admitted(store, job)
        if minutes == 60:  # it came back, which is no wait before the first admission
            await admitted(store, job, number=2)
    await a_job(store, 8, at=at)  # never admitted

    urgent, plain = await waits(store)

    assert (urgent.priority, urgent.waited.job_count) == (90, 1)
    assert (plain.priority, plain.waited.job_count) == (50, 3)
    for told, waited_min in (
        (urgent.waited.p50, 1.0),
        (urgent.waited.p99, 1.0),
        (plain.waited.p50, 20.0),
        (plain.waited.p99, 20 + 0.98 * 40),
    ):
        assert told is not None
        assert told.total_seconds() == pytest.approx(60 * waited_min, abs=20)


async def test_waits_of_another_queue_are_told_apart(store: Store) -> None:
    await a_node(store)
    at = await now(store)
    for number, queue in enumerate(("nightly", "default", "nightly")):
        await admitted(store, await a_job(store, number, at=at, queue=queue))
    told = [(each.queue, each.priority, each.waited.job_count) for each in await waits(store)]
    assert told == [("default", 50, 1), ("nightly", 50, 2)]


async def test_a_submission_by_a_clock_that_is_ahead_has_not_waited(store: Store) -> None:
    await a_node(store)
    await admitted(store, await a_job(store, 1, at=await now(store) + HOUR))

    [told] = await waits(store)

    assert told.waited == JobTimes(1, p50=timedelta(0), p99=timedelta(0))


async def test_only_so_many_are_looked_at_the_latest_first(store: Store) -> None:
    await a_node(store)
    at = await now(store)
    for number in range(3):
        await admitted(store, await a_job(store, number, at=at, priority=number))
        await a_job(store, 10 + number, at=at, state=JobState.FAILED, ended_at=at + number * HOUR)

    assert [told.priority for told in await waits(store, limit=2)] == [2, 1]
    [failed] = await ends(store, since=at, limit=2)
    assert failed.job_count == 2


async def test_jobs_of_another_tenant_are_none_of_it(store: Store) -> None:
    await a_node(store)
    await admitted(store, await a_job(store, 1, at=await now(store)))

    assert await waits(store, tenant=UMBRELLA) == []


async def test_ends_are_told_by_state_with_how_long_jobs_ran_at_last(store: Store) -> None:
    at = await now(store)
    ended = [
        (JobState.SUCCEEDED, 10.0, 0),
        (JobState.SUCCEEDED, 20.0, 0),
        (JobState.CANCELLED, None, 0),
        (JobState.FAILED, 5.0, 3_601),
    ]
    for number, (state, ran_s, ago_s) in enumerate(ended):
        ended_at = at - timedelta(seconds=ago_s)
        started_at = None if ran_s is None else ended_at - timedelta(seconds=ran_s)
        await a_job(
            store, number, at=at - HOUR, state=state, started_at=started_at, ended_at=ended_at
        )
    await a_job(store, 9, at=at)

    cancelled, succeeded = await ends(store, since=at - HOUR)

    assert cancelled == JobEnds(JobState.CANCELLED, 1, JobTimes(0))
    ran = JobTimes(2, p50=timedelta(seconds=15), p99=timedelta(seconds=19.9))
    assert succeeded == JobEnds(JobState.SUCCEEDED, 2, ran)
