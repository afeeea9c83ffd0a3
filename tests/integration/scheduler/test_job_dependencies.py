"""Jobs that wait for others, on a real database: submission, release, chains, races."""

from asyncio import TaskGroup
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from services.chassis.db.errors import LeaseLost
from services.chassis.errors import FailedPrecondition, InvalidArgument, ModelyardError
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.postgres.jobs import PostgresJobs
from services.scheduler.adapters.postgres.tables import DEPENDENCIES, JOBS
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import Job, JobState, JobTransitioned
from services.scheduler.domain.jobs.spec import DependencyCondition, JobDependency, JobTimeouts
from services.scheduler.domain.scheduling.causes import Hold
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.jobs.delete_ended_jobs import DeleteEndedJobs
from services.scheduler.use_cases.jobs.expire_queued_jobs import ExpireQueuedJobs
from services.scheduler.use_cases.jobs.release_jobs import ReleaseJobs
from services.scheduler.use_cases.jobs.submit_jobs import Submission
from services.scheduler.use_cases.paging import PageRequest
from services.scheduler.use_cases.ports import RequestKey
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import Outcome
from tests.integration.scheduler.yard import Yard
from tests.unit.scheduler.builders import ACME, NODE, TRACEPARENT, UMBRELLA, a_spec

EXIT_1 = JobFailure(FailureReason.EXIT_CODE, "exit code 1", exit_code=1)


def succeeds(job: Job) -> tuple[JobDependency, ...]:
    return (JobDependency(job.id),)


def ends(job: Job) -> tuple[JobDependency, ...]:
    return (JobDependency(job.id, DependencyCondition.END),)


async def ended(yard: Yard, job: Job, *, failure: JobFailure | None = None) -> None:
    """Let a job run and end, at the runner's word."""
    async with yard.store.system(because="test") as tx:
        moved = await tx.jobs.get_any(job.id)
        if moved.state is JobState.QUEUED:
            moved, fact = moved.admitted(AttemptId(f"att_{job.id}"), NODE, at=tx.now)
            tx.emit(fact)
        moves: list[Callable[[Job], tuple[Job, JobTransitioned]]] = [
            lambda job: job.starting(at=tx.now),
            lambda job: job.running(at=tx.now),
            lambda job: job.failed(failure, at=tx.now) if failure else job.succeeded((), at=tx.now),
        ]
        for move in moves:
            moved, fact = move(moved)
            tx.emit(fact)
        await tx.jobs.save(moved)


async def released(yard: Yard, *, jobs_per_pass_max: int = 10) -> int:
    """Run one pass as the leader."""
    release = ReleaseJobs(yard.store, lambda: None, jobs_per_pass_max=jobs_per_pass_max)
    return await release(await yard.lease())


async def rows(yard: Yard) -> Sequence[tuple[str, str]]:
    async with yard.engine.connect() as connection:
        query = sa.select(DEPENDENCIES.c.job_id, DEPENDENCIES.c.needs_job_id)
        found = await connection.execute(query.order_by(DEPENDENCIES.c.position))
        return [(row.job_id, row.needs_job_id) for row in found]


async def meanwhile(act: Coroutine[Any, Any, Any]) -> None:
    """Run something to its end beside this task's transaction, and outside of it."""
    async with TaskGroup() as tasks:
        tasks.create_task(act, context=Context())


async def test_a_job_is_passed_over_until_what_it_needs_has_succeeded(yard: Yard) -> None:
    await yard.a_node()
    needed = await yard.a_job()
    job = await yard.a_job(after=succeeds(needed))
    assert job.needs == succeeds(needed)
    assert await yard.job(job.id) == job
    told = await yard.explain_job(ACME, job.id)
    assert (told.reason.hold, told.reason.because) == (
        Hold.DEPENDENCY,
        f"waits for job {needed.id} to succeed",
    )
    [shown, _] = (await yard.list_jobs(ACME, PageRequest())).items
    assert (shown.needs, shown.reason) == (job.needs, told.reason.because)

    assert await yard.cycle() == [(needed.id, Outcome.PLACED)]
    await yard.end((await yard.open_work())[0].attempt.id)
    assert (await released(yard), await yard.cycle()) == (0, [])

    await ended(yard, needed)
    assert await released(yard) == 1
    assert (await yard.job(job.id)).reason == f"job {needed.id}, which it waited for, has succeeded"
    assert await yard.cycle() == [(job.id, Outcome.PLACED)]
    assert await rows(yard) == []


async def test_of_a_suspended_tenants_waiting_job_the_suspension_is_told_first(yard: Yard) -> None:
    job = await yard.a_job(after=succeeds(await yard.a_job()))
    yard.tenant(ACME, is_suspended=True)
    assert (await yard.explain_job(ACME, job.id)).reason.hold is Hold.TENANT
    assert (await yard.get_job(ACME, job.id)).reason == "the tenant is suspended: unpaid"


async def test_an_end_is_waited_for_however_it_comes(yard: Yard) -> None:
    needed = await yard.a_job()
    job = await yard.a_job(after=ends(needed))
    await ended(yard, needed, failure=EXIT_1)
    assert await released(yard) == 1
    found = await yard.job(job.id)
    assert (found.state, found.needs) == (JobState.QUEUED, ())
    assert found.reason == f"job {needed.id}, which it waited for, has failed"
    assert await yard.event_types(job.id) == ["job.queued"]


async def test_several_are_waited_for_one_by_one(yard: Yard) -> None:
    first, second = await yard.a_job(), await yard.a_job()
    job = await yard.a_job(after=(*ends(second), *succeeds(first)))
    assert await rows(yard) == [(job.id, second.id), (job.id, first.id)]

    await ended(yard, first)
    assert await released(yard) == 1
    found = await yard.job(job.id)
    assert (found.needs, found.reason) == (ends(second), f"waits for job {second.id} to end")
    assert await rows(yard) == [(job.id, second.id)]

    await ended(yard, second)
    assert (await released(yard), await released(yard)) == (1, 0)
    assert (await yard.job(job.id)).needs == ()


async def test_what_has_ended_as_it_should_before_the_submission_counts_at_once(
    yard: Yard,
) -> None:
    good, bad = await yard.a_job(), await yard.a_job()
    await ended(yard, good)
    await ended(yard, bad, failure=EXIT_1)
    job = await yard.a_job(after=(*succeeds(good), *ends(bad)))
    assert (job.needs, job.reason) == ((), "submitted")
    assert job.spec.after == (*succeeds(good), *ends(bad))
    assert await rows(yard) == []


async def test_who_would_wait_in_vain_is_refused_by_a_check_too_and_may_use_its_key_again(
    yard: Yard,
) -> None:
    needed = await yard.a_job()
    await ended(yard, needed, failure=EXIT_1)
    spec, key = a_spec(after=succeeds(needed)), RequestKey("key-1", b"hash")
    with pytest.raises(FailedPrecondition, match=f"job {needed.id} has failed") as refused:
        await yard.submit_job(ACME, spec, key=key, traceparent=None)
    with pytest.raises(FailedPrecondition) as checked:
        await yard.check_job(ACME, spec)
    assert checked.value.message == refused.value.message

    again = replace(spec, after=ends(needed))
    job = await yard.submit_job(ACME, again, key=RequestKey("key-1", b"other"), traceparent=None)
    assert job.state is JobState.QUEUED


async def test_another_tenants_job_is_refused_as_one_that_there_is_not(yard: Yard) -> None:
    theirs = await yard.a_job(tenant=UMBRELLA)
    refusals = []
    for job_id in (theirs.id, JobId("job_unknown")):
        spec = a_spec(after=(JobDependency(job_id),))
        for ask in (yard.submit(spec), yard.check_job(ACME, spec)):
            with pytest.raises(InvalidArgument) as refused:
                await ask
            assert refused.value.detail["field"] == "spec.after[0].job_id"
            refusals.append(refused.value.message.replace(job_id, "X"))
    assert len(set(refusals)) == 1


async def test_submissions_of_one_commit_find_their_own_tenants_jobs(yard: Yard) -> None:
    mine, theirs = await yard.a_job(), await yard.a_job(tenant=UMBRELLA)

    def asked(tenant: TenantId, needed: Job) -> Submission:
        return Submission(tenant, a_spec(after=succeeds(needed)), None, TRACEPARENT)

    answers = await yard.submit_jobs(
        [asked(ACME, mine), asked(ACME, theirs), asked(UMBRELLA, theirs), asked(UMBRELLA, mine)]
    )
    is_taken = [not isinstance(answer, ModelyardError) for answer in answers]
    assert is_taken == [True, False, True, False]


async def test_a_failure_goes_down_the_chain_and_stops_where_an_end_is_enough(yard: Yard) -> None:
    first = await yard.a_job(tenant=UMBRELLA)
    second = await yard.a_job(tenant=UMBRELLA, after=succeeds(first))
    third = await yard.a_job(tenant=UMBRELLA, after=succeeds(second))
    await ended(yard, first, failure=EXIT_1)
    assert await released(yard) == 1
    last = await yard.a_job(tenant=UMBRELLA, after=ends(third))
    assert [await released(yard) for _ in range(3)] == [1, 1, 0]

    told = [await yard.job(each.id, tenant=UMBRELLA) for each in (second, third, last)]
    assert [(job.state, job.reason) for job in told] == [
        (JobState.CANCELLED, f"job {first.id}, which it waits for, has failed"),
        (JobState.CANCELLED, f"job {second.id}, which it waits for, was cancelled"),
        (JobState.QUEUED, f"job {third.id}, which it waited for, was cancelled"),
    ]
    assert await yard.event_types(third.id) == ["job.queued", "job.cancelled"]
    assert await rows(yard) == []


async def test_an_end_that_comes_while_a_submission_is_under_way_is_not_missed(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The submission has seen it run; it ends before the submission is committed."""
    needed = await yard.a_job()
    states = PostgresJobs.states

    async def and_then_it_ends(
        jobs: PostgresJobs, tenant: TenantId, job_ids: Sequence[JobId]
    ) -> Any:
        found = await states(jobs, tenant, job_ids)
        await meanwhile(ended(yard, needed))
        await meanwhile(released(yard))  # a pass that comes between sees no row yet
        return found

    with monkeypatch.context() as patched:
        patched.setattr(PostgresJobs, "states", and_then_it_ends)
        job = await yard.a_job(after=succeeds(needed))
    assert job.needs == succeeds(needed)

    assert await released(yard) == 1
    assert (await yard.job(job.id)).needs == ()


async def test_a_submission_that_comes_while_an_end_is_under_way_is_not_missed(yard: Yard) -> None:
    """The end is written and not committed yet when the submission looks, and is committed."""
    needed = await yard.a_job()
    made: list[Job] = []

    async def submit() -> None:
        made.append(await yard.a_job(after=succeeds(needed)))

    async with yard.store.system(because="test") as tx:
        job, fact = (await tx.jobs.get_any(needed.id)).cancelled(reason="enough", at=tx.now)
        await tx.jobs.save(job)
        tx.emit(fact)
        await meanwhile(submit())
        await meanwhile(released(yard))
    [job] = made
    assert job.needs == succeeds(needed)

    assert await released(yard) == 1
    assert (await yard.job(job.id)).state is JobState.CANCELLED


async def test_time_in_line_counts_from_the_release(yard: Yard) -> None:
    needed = await yard.a_job()
    job = await yard.a_job(after=ends(needed), timeouts=JobTimeouts(queue=timedelta(minutes=1)))
    expire = ExpireQueuedJobs(yard.store, jobs_per_pass_max=10)
    yard.clock.seconds = 3600
    assert await expire(await yard.lease()) == 0

    await ended(yard, needed)
    assert await released(yard) == 1
    yard.clock.seconds = 3659
    assert await expire(await yard.lease()) == 0
    yard.clock.seconds = 3660
    assert await expire(await yard.lease()) == 1
    assert (await yard.job(job.id)).state is JobState.FAILED


async def test_a_waiting_job_is_cancelled_as_ever(yard: Yard) -> None:
    needed = await yard.a_job()
    job = await yard.a_job(after=succeeds(needed))
    cancelled = await CancelJob(yard.store)(ACME, job.id, reason="enough")
    assert (cancelled.state, cancelled.needs) == (JobState.CANCELLED, ())
    assert await rows(yard) == []
    await ended(yard, needed)
    assert await released(yard) == 0


async def test_a_pass_is_bounded_and_the_next_one_sees_the_rest(yard: Yard) -> None:
    needed = await yard.a_job(tenant=UMBRELLA)
    for _ in range(2):
        await yard.a_job(tenant=UMBRELLA, after=succeeds(needed))
    await ended(yard, needed)
    assert [await released(yard, jobs_per_pass_max=1) for _ in range(3)] == [1, 1, 0]


async def test_a_leader_that_was_replaced_lets_nobody_go_on(yard: Yard) -> None:
    needed = await yard.a_job()
    job = await yard.a_job(after=succeeds(needed))
    await ended(yard, needed)
    held = await yard.lease()
    late = replace(held, epoch=held.epoch - 1)
    with pytest.raises(LeaseLost):
        await ReleaseJobs(yard.store, lambda: None, jobs_per_pass_max=10)(late)
    assert (await yard.job(job.id)).needs == succeeds(needed)


async def test_whoever_gives_capacity_hears_of_a_release(yard: Yard) -> None:
    needed = await yard.a_job()
    await yard.a_job(after=succeeds(needed))
    heard: list[str] = []
    release = ReleaseJobs(yard.store, lambda: heard.append("released"), jobs_per_pass_max=10)
    await release(await yard.lease())
    assert heard == []
    await ended(yard, needed)
    await release(await yard.lease())
    assert heard == ["released"]


async def test_an_ended_job_is_kept_until_who_waits_for_it_has_been_told(yard: Yard) -> None:
    needed = await yard.a_job()
    await yard.a_job(after=succeeds(needed))
    await ended(yard, needed)
    async with yard.engine.begin() as connection:
        long_ago = sa.func.clock_timestamp() - timedelta(days=31)
        await connection.execute(
            sa.update(JOBS).where(JOBS.c.id == needed.id).values(ended_at=long_ago)
        )
    delete = DeleteEndedJobs(yard.store, timedelta(days=30), jobs_per_pass_max=10)
    assert await delete(await yard.lease()) == 0
    assert await released(yard) == 1
    assert await delete(await yard.lease()) == 1


async def test_a_needed_job_that_is_gone_is_not_waited_for(yard: Yard) -> None:
    needed = await yard.a_job()
    job = await yard.a_job(after=ends(needed))
    async with yard.engine.begin() as connection:
        await connection.execute(sa.delete(JOBS).where(JOBS.c.id == needed.id))
    assert await released(yard) == 1
    found = await yard.job(job.id)
    assert found.state is JobState.CANCELLED
    assert found.reason == f"job {needed.id}, which it waits for, is gone"


async def test_rows_left_by_hand_behind_a_job_that_has_gone_on_are_nobodys_wait(yard: Yard) -> None:
    needed = await yard.a_job()
    waiting = await yard.a_job(after=ends(needed))
    await ended(yard, needed)
    async with yard.engine.begin() as connection:
        await connection.execute(
            sa.update(JOBS)
            .where(JOBS.c.id == waiting.id)
            .values(state=JobState.CANCELLED, ended_at=yard.clock.now())
        )
    assert await released(yard, jobs_per_pass_max=9) == 0


async def test_what_a_purged_tenants_jobs_wait_for_goes_with_them(yard: Yard) -> None:
    theirs = await yard.a_job(tenant=UMBRELLA)
    kept = await yard.a_job(tenant=UMBRELLA, after=succeeds(theirs))
    needed = await yard.a_job()
    await yard.a_job(after=succeeds(needed))
    yard.tenant(ACME, is_purged=True)
    lease = await yard.lease()
    while await yard.purge_tenants(lease):
        pass
    assert await rows(yard) == [(kept.id, theirs.id)]
