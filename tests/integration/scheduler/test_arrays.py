"""An array of jobs on a real database: one row in line, and jobs once they are admitted."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from services.chassis.errors import Conflict, InvalidArgument, QueueFull
from services.scheduler.adapters.postgres.jobs import PostgresJobs
from services.scheduler.adapters.postgres.tables import JOBS
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import ArrayElement, Job, JobState, StopCause
from services.scheduler.domain.jobs.spec import JobDependency, JobTimeouts
from services.scheduler.domain.scheduling.causes import Hold
from services.scheduler.use_cases.jobs.ask_to_stop import ask_to_stop
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.jobs.delete_ended_jobs import DeleteEndedJobs
from services.scheduler.use_cases.jobs.end_arrays import EndArrays
from services.scheduler.use_cases.jobs.expire_queued_jobs import ExpireQueuedJobs
from services.scheduler.use_cases.jobs.release_jobs import ReleaseJobs
from services.scheduler.use_cases.jobs.stop_elements import StopElements
from services.scheduler.use_cases.paging import PageRequest
from services.scheduler.use_cases.ports import RequestKey
from services.scheduler.use_cases.scheduling.leaders_memory import LeadersMemory
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import Outcome
from tests.integration.scheduler.yard import Yard, cores
from tests.unit.scheduler.builders import ACME, NOW, TRACEPARENT, UMBRELLA, a_spec, resources

S = JobState
LOST = JobFailure(FailureReason.LOST, "gone")


@pytest.fixture(autouse=True)
async def _a_node_for_two(yard: Yard) -> None:
    await yard.a_node(resources(cpu=2, memory=64))


async def an_array(yard: Yard, *, size: int = 5, **job: Any) -> Job:
    """Queue an array whose elements take a core each."""
    return await yard.a_job(resources=cores(1), array_size=size, **job)


async def elements_of(yard: Yard, array: Job) -> Sequence[Job]:
    """Return those that are jobs, by index."""
    page = await yard.list_jobs(ACME, PageRequest(100, None), array_id=array.id)
    return sorted(page.items, key=lambda job: job.array_index)


async def end(yard: Yard, element: Job, to: JobState = S.SUCCEEDED) -> None:
    """Do what the runner does when an element's container has ended."""
    async with yard.store.system(because="test") as tx:
        job = await tx.jobs.get_any(element.id)
        if job.state is S.ADMITTED:
            job, starting = job.starting(at=tx.now)
            job, running = job.running(at=tx.now)
            tx.emit(starting)
            tx.emit(running)
        if to is S.SUCCEEDED:
            job, fact = job.succeeded((), at=tx.now)
        elif to is S.QUEUED:
            job, fact = job.requeued(reason="drained", at=tx.now)
        elif to is S.CANCELLED:
            job, fact = job.cancelled(reason="as asked", at=tx.now)
        else:
            job, fact = job.failed(LOST, at=tx.now)
        await tx.jobs.save(job)
        tx.emit(fact)
    assert job.attempt_id is not None
    await yard.end(job.attempt_id)


async def ended_arrays(yard: Yard) -> int:
    return await EndArrays(yard.store, jobs_per_pass_max=10)(await yard.lease())


async def stopped_elements(yard: Yard) -> int:
    return await StopElements(yard.store, jobs_per_pass_max=10)(await yard.lease())


async def cancel(yard: Yard, job: Job) -> Job:
    return await CancelJob(yard.store)(ACME, job.id, reason="enough")


async def test_elements_are_admitted_in_order_and_as_many_as_fit(yard: Yard) -> None:
    array = await an_array(yard)
    assert await yard.cycle() == [(array.id, Outcome.PLACED)] * 2
    assert await yard.cycle() == []

    elements = await elements_of(yard, array)
    assert [each.element for each in elements] == [
        ArrayElement(array.id, 0),
        ArrayElement(array.id, 1),
    ]
    assert [each.state for each in elements] == [S.ADMITTED] * 2
    works = {work.owner.job_id: work.owner for work in await yard.open_work()}  # type: ignore[union-attr]
    assert {each.id: each.element for each in elements} == {
        job_id: owner.element  # type: ignore[union-attr]
        for job_id, owner in works.items()
    }
    waiting = await yard.get_job(ACME, array.id)
    assert (waiting.state, waiting.rest_count) == (S.QUEUED, 3)
    assert waiting.element_counts == {S.ADMITTED: 2}
    assert await yard.event_types(elements[0].id) == ["job.queued", "job.admitted"]
    [queued, admitted] = await yard.job_facts(elements[1].id)
    assert (queued.element.array_id, admitted.element.index) == (array.id, 1)
    await yard.check()


async def test_an_array_runs_to_its_end_and_is_one_that_succeeded(yard: Yard) -> None:
    array = await an_array(yard)
    seen = []
    while (await yard.job(array.id)).state is S.QUEUED:
        await yard.cycle()
        assert await ended_arrays(yard) == 0
        for element in await elements_of(yard, array):
            if element.state is S.ADMITTED:
                seen.append(element.array_index)
                await end(yard, element)
    assert seen == [0, 1, 2, 3, 4]
    assert (await yard.job(array.id)).state is S.RUNNING

    assert await ended_arrays(yard) == 1
    assert await ended_arrays(yard) == 0
    ended = await yard.get_job(ACME, array.id)
    assert (ended.state, ended.element_counts) == (S.SUCCEEDED, {S.SUCCEEDED: 5})
    assert await yard.event_types(array.id) == ["job.queued", "job.running", "job.succeeded"]
    await yard.check()


async def test_an_array_fails_with_one_of_its_elements_once_the_others_have_ended(
    yard: Yard,
) -> None:
    array = await an_array(yard, size=2)
    await yard.cycle()
    first, second = await elements_of(yard, array)
    await end(yard, first, S.FAILED)
    assert await ended_arrays(yard) == 0
    await end(yard, second)
    assert await ended_arrays(yard) == 1
    failure = (await yard.job(array.id)).failure
    assert failure is not None
    assert (failure.reason, failure.message) == (FailureReason.ELEMENTS, "of 2 elements 1 failed")


async def test_an_element_that_comes_back_goes_before_the_rest_as_the_same_job(yard: Yard) -> None:
    array = await an_array(yard, size=4)
    await yard.cycle()
    first, second = await elements_of(yard, array)
    await end(yard, second, S.QUEUED)
    await end(yard, first)
    assert await yard.cycle() == [(second.id, Outcome.PLACED), (array.id, Outcome.PLACED)]
    assert [each.attempt_number for each in await elements_of(yard, array)] == [1, 2, 1]
    await yard.check()


async def test_a_cycle_that_believes_in_more_elements_than_there_are_splits_no_other_off(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader with a picture of before: another one has split one off."""
    await yard.a_node(resources(cpu=8, memory=64), name="node-2")
    array = await an_array(yard, size=3)
    look = PostgresJobs.queued

    async def later(jobs: PostgresJobs, job_ids: Sequence[JobId]) -> Sequence[Job]:
        return [replace(job, rest_count=job.rest_count - 1) for job in await look(jobs, job_ids)]

    monkeypatch.setattr(PostgresJobs, "queued", later)
    outcomes = await yard.cycle()
    assert [outcome for _, outcome in outcomes] == [
        Outcome.PLACED,
        Outcome.PLACED,
        Outcome.MOVED_ON,
    ]
    assert [each.array_index for each in await elements_of(yard, array)] == [1, 2]


async def test_two_leaders_split_each_element_off_once(yard: Yard) -> None:
    await yard.a_node(resources(cpu=8, memory=64), name="node-2")
    array = await an_array(yard, size=8)
    other = replace(
        yard.run_cycle, memory=LeadersMemory(yard.store, timedelta(hours=24)), heads_max=3
    )
    yard.run_cycle = replace(yard.run_cycle, heads_max=3)
    lease = await yard.lease()
    for _ in range(3):
        await asyncio.gather(yard.run_cycle(lease), other(lease))
    assert [each.array_index for each in await elements_of(yard, array)] == list(range(8))
    assert (await yard.job(array.id)).state is S.RUNNING
    await yard.check()


async def test_a_cycle_that_fails_has_split_nothing_off(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = await an_array(yard)

    async def fail(_: object, job: Job) -> None:
        raise Conflict("job", job.id)

    with monkeypatch.context() as patched:
        patched.setattr(PostgresJobs, "save", fail)
        with pytest.raises(Conflict):
            await yard.cycle()
    assert await elements_of(yard, array) == []
    assert await yard.cycle() == [(array.id, Outcome.PLACED)] * 2
    await yard.check()


async def test_a_cancelled_array_stops_its_elements_and_ends_after_them(yard: Yard) -> None:
    array = await an_array(yard)
    await yard.cycle()
    first, second = await elements_of(yard, array)
    stopping = await cancel(yard, array)
    assert (stopping.state, stopping.element_counts) == (S.STOPPING, {S.ADMITTED: 2})
    await end(yard, second, S.QUEUED)  # back in line before anybody has asked it to stop

    assert await yard.cycle() == [(second.id, Outcome.MOVED_ON)]
    assert await ended_arrays(yard) == 0
    assert await stopped_elements(yard) == 2
    assert await stopped_elements(yard) == 0
    assert [each.state for each in await elements_of(yard, array)] == [S.STOPPING, S.CANCELLED]
    assert await ended_arrays(yard) == 0
    await end(yard, first, S.CANCELLED)
    assert await ended_arrays(yard) == 1
    ended = await yard.job(array.id)
    assert (ended.state, ended.reason) == (S.CANCELLED, "enough")
    assert await yard.cycle() == []
    await yard.check()


async def test_an_element_that_stops_for_now_stops_for_good_with_its_array(yard: Yard) -> None:
    array = await an_array(yard, size=1)
    await yard.cycle()
    [element] = await elements_of(yard, array)
    async with yard.store.system(because="test") as tx:
        job = await tx.jobs.get_any(element.id)
        await ask_to_stop(tx, job, reason="drained", cause=StopCause.DRAINED)
    assert (await cancel(yard, array)).state is S.STOPPING
    assert await stopped_elements(yard) == 1
    assert await stopped_elements(yard) == 0
    stop = (await yard.job(element.id)).stop
    assert stop is not None
    assert stop.cause is StopCause.CANCELLED


async def test_an_array_that_was_cancelled_in_line_is_over_at_once(yard: Yard) -> None:
    array = await an_array(yard)
    assert (await cancel(yard, array)).state is S.CANCELLED
    assert await yard.cycle() == []
    await yard.check()


async def test_an_element_is_cancelled_alone(yard: Yard) -> None:
    array = await an_array(yard, size=2)
    await yard.cycle()
    first, second = await elements_of(yard, array)
    await cancel(yard, first)
    await end(yard, first, S.CANCELLED)
    await end(yard, second)
    assert await ended_arrays(yard) == 1
    assert (await yard.job(array.id)).reason == "of 2 elements 1 cancelled"


async def test_who_comes_after_an_array_waits_for_its_last_element(yard: Yard) -> None:
    array = await an_array(yard, size=2)
    after = await yard.a_job(resources=cores(1), after=(JobDependency(array.id),))
    behind = await an_array(yard, size=2, after=(JobDependency(array.id),))
    await yard.cycle()
    for element in await elements_of(yard, array):
        await end(yard, element)
    release = ReleaseJobs(yard.store, lambda: None, jobs_per_pass_max=9)
    assert await release(await yard.lease()) == 0
    await ended_arrays(yard)
    assert await release(await yard.lease()) == 2
    assert {name for name, _ in await yard.cycle()} == {after.id, behind.id}
    # And an element can be waited for once it is a job.
    [first] = await elements_of(yard, behind)
    assert (await yard.a_job(after=(JobDependency(first.id),))).needs
    await yard.check()


async def test_what_of_an_array_stood_in_line_too_long_fails_and_the_others_go_on(
    yard: Yard,
) -> None:
    array = await an_array(yard, timeouts=JobTimeouts(queue=timedelta(seconds=30)))
    await yard.cycle()
    yard.clock.seconds = 60
    assert await ExpireQueuedJobs(yard.store, jobs_per_pass_max=9)(await yard.lease()) == 1
    assert (await yard.job(array.id)).state is S.RUNNING
    for element in await elements_of(yard, array):
        await end(yard, element)
    assert await yard.cycle() == []
    await ended_arrays(yard)
    ended = await yard.job(array.id)
    assert ended.failure is not None
    assert ended.failure.message == "3 elements stood in line for longer than 30 s"
    await yard.check()


async def test_an_array_is_one_of_the_jobs_that_may_stand_in_line(yard: Yard) -> None:
    for _ in range(3):
        await an_array(yard, size=10_000)
    with pytest.raises(QueueFull):
        await an_array(yard, size=1)
    queues = await yard.list_queues(ACME, PageRequest(9, None))
    assert [each.queued_count for each in queues.items] == [30_000]


async def test_a_repeated_submission_is_answered_with_the_array_as_it_stands(yard: Yard) -> None:
    spec, key = a_spec(array_size=3, resources=cores(1)), RequestKey("k", b"hash")
    array = await yard.submit_job(ACME, spec, key=key, traceparent=TRACEPARENT)
    await yard.cycle()
    again = await yard.submit_job(ACME, spec, key=key, traceparent=TRACEPARENT)
    assert (again.id, again.element_counts) == (array.id, {S.ADMITTED: 2})


async def test_turns_by_share_go_from_array_to_array(yard: Yard) -> None:
    ours = await an_array(yard, size=3)
    theirs = await yard.a_job(tenant=UMBRELLA, resources=cores(1), array_size=3)
    assert {name for name, _ in await yard.cycle()} == {ours.id, theirs.id}


async def test_an_array_is_explained_by_its_next_element(yard: Yard) -> None:
    array = await an_array(yard)
    behind = await an_array(yard, size=3)
    await yard.cycle()
    found = await yard.explain_job(ACME, array.id)
    assert (found.reason.hold, found.jobs_before) == (Hold.RESOURCES, 0)
    assert found.estimated_start_at is not None
    assert (await yard.explain_job(ACME, behind.id)).jobs_before == 3
    for element in await elements_of(yard, array):
        assert (await yard.explain_job(ACME, element.id)).reason.hold is Hold.NONE


async def test_an_array_out_of_line_says_how_many_of_its_elements_are_back_in_it(
    yard: Yard,
) -> None:
    array = await an_array(yard, size=2)
    await yard.cycle()
    first, second = await elements_of(yard, array)
    found = await yard.explain_job(ACME, array.id)
    assert (found.reason.hold, found.reason.because) == (Hold.NONE, "2 of 2 elements admitted")
    await end(yard, first, S.QUEUED)
    await end(yard, second, S.QUEUED)
    told = (await yard.explain_job(ACME, array.id)).reason.because
    assert told.endswith("; 2 of them are back in line, each explained by itself")


async def test_elements_are_kept_for_as_long_as_their_array_goes_on(yard: Yard) -> None:
    array = await an_array(yard, size=2)
    await yard.cycle()
    first, second = await elements_of(yard, array)
    await end(yard, first, S.FAILED)
    kept = timedelta(days=30)

    async def delete_ended(limit: int) -> int:
        return await DeleteEndedJobs(yard.store, kept, jobs_per_pass_max=limit)(await yard.lease())

    async def deleted(*, limit: int = 9) -> int:
        async with yard.engine.begin() as connection:
            await connection.execute(
                sa.update(JOBS)
                .where(JOBS.c.ended_at > NOW - kept)
                .values(ended_at=sa.func.clock_timestamp() - 2 * kept)
            )
        return await delete_ended(limit)

    assert await deleted() == 0
    await end(yard, second)
    assert await ended_arrays(yard) == 1
    assert (await yard.job(array.id)).state is S.FAILED
    async with yard.engine.begin() as connection:  # its elements have ended long before it
        await connection.execute(
            sa.update(JOBS).where(JOBS.c.array_id != "").values(ended_at=NOW - 2 * kept)
        )
        await connection.execute(
            sa.update(JOBS)
            .where(JOBS.c.id == array.id)
            .values(ended_at=sa.func.clock_timestamp() - kept / 2)
        )
    assert await delete_ended(9) == 0
    assert await deleted(limit=1) == 1
    assert await delete_ended(1) == 1
    assert (await yard.job(array.id)).state is S.FAILED
    assert await delete_ended(9) == 1


async def test_a_purged_tenants_arrays_go_with_their_elements(yard: Yard) -> None:
    await an_array(yard)
    await yard.cycle()
    yard.tenant(ACME, is_purged=True)
    await yard.stop_suspended_jobs(await yard.lease())
    for work in await yard.open_work():
        async with yard.store.system(because="test") as tx:
            job = await tx.jobs.get_any(work.owner.job_id)  # type: ignore[union-attr]
            job, fact = job.requeued(reason="suspended", at=tx.now)
            await tx.jobs.save(job)
            tx.emit(fact)
        await yard.end(work.attempt.id)
    while await yard.purge_tenants(await yard.lease()):
        pass
    async with yard.engine.connect() as connection:
        assert await connection.scalar(sa.select(sa.func.count()).select_from(JOBS)) == 0


async def test_an_index_without_its_array_is_refused(yard: Yard) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        await yard.list_jobs(ACME, PageRequest(9, None), array_index=1)
    assert refusal.value.detail["field"] == "array_index"
