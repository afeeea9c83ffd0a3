"""A job of several tasks on a real database: all of them are admitted, end and come back as one."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.chassis.db.lease import HeldLease, PostgresLeases
from services.chassis.errors import InvalidArgument
from services.scheduler.adapters.postgres.tables import CHASSIS
from services.scheduler.domain.attempts.attempt import AttemptState, LogLocation
from services.scheduler.domain.attempts.ending import EndReason
from services.scheduler.domain.attempts.runtime import ContainerExit
from services.scheduler.domain.attempts.work import AttemptWork
from services.scheduler.domain.fleet.node import lease_name
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import (
    Checkpoint,
    Job,
    JobState,
    OutputManifest,
    StopCause,
)
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.causes import Hold
from services.scheduler.use_cases.attempts.record_attempt import (
    NOTHING_KEPT,
    Kept,
    RecordAttempt,
    Succeeded,
)
from services.scheduler.use_cases.attempts.record_attempt import (
    Outcome as End,
)
from services.scheduler.use_cases.fleet.change_node import ChangeNode
from services.scheduler.use_cases.fleet.drain_nodes import DrainNodes
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.jobs.list_attempts import ListAttempts
from services.scheduler.use_cases.paging import PageRequest
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import Outcome
from tests.integration.scheduler.yard import (
    NODE_SILENCE_MAX,
    Yard,
    cores,
    goes_down_once_it_is_seen,
)
from tests.unit.scheduler.builders import ACME, NODE, NOW, resources

OTHER = NodeId("node-2")
EXIT_1 = JobFailure(FailureReason.EXIT_CODE, "exit code 1", exit_code=1)
LOST = JobFailure(FailureReason.LOST, "gone")
SUCCEEDED = Succeeded(())
OUTPUTS = (OutputManifest("model", "digits", ()),)


@pytest.fixture
async def runner(yard: Yard) -> HeldLease:
    """Give the lease of a runner, on whose node there is room for two tasks; so is on another."""
    for node_id in (NODE, OTHER):
        await yard.a_node(resources(cpu=2, memory=8), name=node_id)
    name = lease_name(NODE)
    epoch = await PostgresLeases(yard.engine, CHASSIS).take(
        name, holder="runner_1", ttl=timedelta(seconds=60)
    )
    assert epoch is not None
    return HeldLease(name, "runner_1", epoch)


async def a_gang(yard: Yard, *, tasks: int = 4, **job: Any) -> Job:
    """Queue a job whose tasks take a core each."""
    return await yard.a_job(resources=cores(1), task_count=tasks, **job)


async def by_task(yard: Yard) -> list[AttemptWork]:
    """Return what is open, task by task."""
    works = [*await yard.open_work(NODE), *await yard.open_work(OTHER)]
    return sorted(works, key=lambda work: work.attempt.task)


def recording(yard: Yard) -> RecordAttempt:
    return RecordAttempt(yard.store, retried_jobs_max=100, chance=lambda: 0.0)


async def running(yard: Yard, lease: HeldLease, **job: Any) -> tuple[Job, Sequence[AttemptWork]]:
    """Let all tasks of a job run."""
    queued = await a_gang(yard, **job)
    await yard.cycle()
    for work in await by_task(yard):
        location = LogLocation("x/container.log")
        await recording(yard).started(lease, work, log_location=location, at=NOW)
    return await yard.job(queued.id), await by_task(yard)


async def ends(
    yard: Yard,
    lease: HeldLease,
    work: AttemptWork,
    outcome: End = SUCCEEDED,
    *,
    kept: Kept = NOTHING_KEPT,
) -> None:
    """Record that a task has ended."""
    code = outcome.exit_code or 0 if isinstance(outcome, JobFailure) else 0
    end = ContainerExit(code, None, None, NOW, NOW, None, None)
    await recording(yard).exited(lease, work, end, outcome, progress=None, kept=kept)


async def endings(yard: Yard, job: Job) -> list[tuple[int, int, EndReason]]:
    """Return number, task and reason of all attempts that have ended, in their order."""
    page = await ListAttempts(yard.store)(ACME, job.id, PageRequest(size=100, after=None))
    return [(each.number, each.task, each.ending.reason) for each in page.items if each.ending]


async def test_all_tasks_are_admitted_together_each_with_an_attempt(
    yard: Yard, runner: HeldLease
) -> None:
    job = await a_gang(yard, tasks=3)

    assert await yard.cycle() == [(job.id, Outcome.PLACED)]

    works = await by_task(yard)
    attempts = [work.attempt for work in works]
    job = await yard.job(job.id)
    assert [(each.number, each.task, each.task_count) for each in attempts] == [
        (1, task, 3) for task in range(3)
    ]
    assert all(work.is_current for work in works)
    assert (job.state, job.reason) == (JobState.ADMITTED, "3 tasks placed on 2 nodes")
    assert (job.attempt_id, job.node_id) == (attempts[0].id, attempts[0].node_id)
    assert await yard.used(NODE) + await yard.used(OTHER) == job.spec.total_resources
    assert await yard.event_types(job.id) == ["job.queued", "job.admitted"]
    await yard.check()


async def test_nothing_of_it_is_admitted_while_there_is_room_for_some_tasks_only(
    yard: Yard, runner: HeldLease
) -> None:
    small = await yard.a_job(resources=cores(1))
    await yard.cycle()
    job = await a_gang(yard)

    assert await yard.cycle() == []

    assert (await yard.job(job.id)).state is JobState.QUEUED
    told = (await yard.explain_job(ACME, job.id)).reason
    assert told.hold is Hold.RESOURCES
    assert told.because == "there is room for 3 of its 4 tasks, which start together"
    [work] = await by_task(yard)
    await yard.end(work.attempt.id)
    assert await yard.cycle() == [(job.id, Outcome.PLACED)]
    assert (await yard.job(small.id)).attempt_number == 1


async def test_cycles_at_once_admit_each_job_whole_and_once(yard: Yard, runner: HeldLease) -> None:
    jobs = [await a_gang(yard, tasks=3) for _ in range(2)]
    lease = await yard.lease()

    await asyncio.gather(*(yard.run_cycle(lease) for _ in range(4)))

    works = await by_task(yard)
    assert len(works) == 3
    assert len({work.attempt.owner.id for work in works}) == 1
    assert {job.id for job in jobs} > {work.attempt.owner.id for work in works}
    await yard.check()


async def test_a_node_that_went_down_after_the_snapshot_keeps_all_tasks_from_their_start(
    yard: Yard, runner: HeldLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await a_gang(yard)
    lease = await yard.lease()
    goes_down_once_it_is_seen(yard, monkeypatch)
    report = await yard.run_cycle(lease)

    assert [outcome for _, outcome in report.outcomes] == [Outcome.NO_ROOM]
    assert (await yard.job(job.id)).state is JobState.QUEUED
    assert await by_task(yard) == []
    assert await yard.used(OTHER) == Resources()


async def test_it_succeeds_with_the_last_task_and_the_outputs_of_the_first(
    yard: Yard, runner: HeldLease
) -> None:
    job, works = await running(yard, runner)
    assert job.state is JobState.RUNNING

    await ends(yard, runner, works[2])
    await ends(yard, runner, works[0], Succeeded(OUTPUTS))
    await ends(yard, runner, works[3])
    assert (await yard.job(job.id)).state is JobState.RUNNING
    await ends(yard, runner, works[1])

    assert (await yard.job(job.id)).state is JobState.SUCCEEDED
    fact = (await yard.job_facts(job.id))[-1]
    assert [output.register_as for output in fact.outputs] == ["digits"]
    assert await yard.used(NODE) == await yard.used(OTHER) == Resources()
    await yard.check()


async def test_a_task_that_fails_stops_the_others_and_the_job_fails_once_they_have_ended(
    yard: Yard, runner: HeldLease
) -> None:
    job, works = await running(yard, runner)

    await ends(yard, runner, works[3], EXIT_1)

    stopping = await yard.job(job.id)
    assert stopping.stop is not None
    assert (stopping.state, stopping.stop.cause) == (JobState.STOPPING, StopCause.TASK_FAILED)
    assert (stopping.reason, stopping.failure) == ("task 3: exit code 1", None)
    assert all(work.stop == stopping.stop for work in await by_task(yard))
    for work in works[:3]:
        await ends(yard, runner, work, JobFailure(FailureReason.KILLED, "killed", exit_code=143))
    failed = await yard.job(job.id)
    assert failed.failure == replace(EXIT_1, message="task 3: exit code 1")
    assert failed.state is JobState.FAILED
    assert await endings(yard, job) == [
        *((1, task, EndReason.TASK_FAILED) for task in range(3)),
        (1, 3, EndReason.EXIT_CODE),
    ]
    await yard.check()


async def test_after_a_failure_that_is_worth_it_all_tasks_are_tried_again_with_the_checkpoint(
    yard: Yard, runner: HeldLease
) -> None:
    job, works = await running(yard, runner)
    kept = Checkpoint(1, ())

    await recording(yard).lost(runner, works[1], LOST)
    first, *others = await by_task(yard)
    await ends(yard, runner, first, kept=Kept(kept))
    for work in others:
        assert (await yard.job(job.id)).state is JobState.STOPPING
        await ends(yard, runner, work)

    again = await yard.job(job.id)
    assert (again.state, again.retry_count, again.checkpoint) == (JobState.QUEUED, 1, kept)
    assert again.reason == "retry 1 of 3 in 5 s: task 1: gone"
    yard.clock.seconds += 10
    await yard.cycle()
    works = await by_task(yard)
    assert [(work.attempt.number, work.attempt.task) for work in works] == [
        (2, task) for task in range(4)
    ]
    await yard.check()


async def test_ends_that_are_recorded_at_once_end_the_job_once(
    yard: Yard, runner: HeldLease
) -> None:
    job, works = await running(yard, runner)

    await asyncio.gather(*(ends(yard, runner, work) for work in works))

    assert (await yard.job(job.id)).state is JobState.SUCCEEDED
    types = await yard.event_types(job.id)
    assert types.count("job.succeeded") == 1
    await yard.check()


async def test_a_cancelled_job_ends_with_its_last_task(yard: Yard, runner: HeldLease) -> None:
    job, works = await running(yard, runner)

    await CancelJob(yard.store)(ACME, job.id, reason="enough")
    for work in works:
        assert (await yard.job(job.id)).state is JobState.STOPPING
        await ends(yard, runner, replace(work, stop=(await yard.job(job.id)).stop), EXIT_1)

    assert (await yard.job(job.id)).state is JobState.CANCELLED
    await yard.check()


async def test_a_cancellation_counts_while_it_stops_to_be_tried_again(
    yard: Yard, runner: HeldLease
) -> None:
    job, works = await running(yard, runner)
    await recording(yard).lost(runner, works[1], LOST)

    await CancelJob(yard.store)(ACME, job.id, reason="enough")
    for work in await by_task(yard):
        await ends(yard, runner, work)

    ended = await yard.job(job.id)
    assert (ended.state, ended.reason, ended.failure) == (JobState.CANCELLED, "enough", None)


async def test_a_record_of_tasks_that_went_before_leaves_the_job_alone(
    yard: Yard, runner: HeldLease
) -> None:
    job, works = await running(yard, runner)
    for work in works:
        await recording(yard).lost(runner, work, LOST)
    yard.clock.seconds += 10
    await yard.cycle()

    for work in works:
        await recording(yard).lost(runner, work, LOST)
        await recording(yard).out_of_time(runner, work)

    again = await yard.job(job.id)
    assert (again.state, again.attempt_number) == (JobState.ADMITTED, 2)
    assert len(await by_task(yard)) == 4
    assert all(work.attempt.state is AttemptState.CREATED for work in await by_task(yard))


async def test_a_drained_node_sends_the_whole_job_back_in_line(
    yard: Yard, runner: HeldLease
) -> None:
    job, works = await running(yard, runner)
    [elsewhere] = {work.attempt.node_id for work in works} - {works[0].attempt.node_id}
    change = ChangeNode(yard.store, NODE_SILENCE_MAX, lambda: None)
    await change.drain(elsewhere, by="operator")

    drain = DrainNodes(yard.store, jobs_per_pass_max=10)
    assert await drain(await yard.lease()) == 1

    stopping = await yard.job(job.id)
    assert stopping.stop is not None
    assert (stopping.state, stopping.stop.cause) == (JobState.STOPPING, StopCause.DRAINED)
    for work in await by_task(yard):
        await ends(yard, runner, work, kept=Kept())
    assert (await yard.job(job.id)).state is JobState.QUEUED
    await change.uncordon(elsewhere, by="operator")
    assert await yard.cycle() == [(job.id, Outcome.PLACED)]
    await yard.check()


async def test_a_queue_counts_it_once_until_its_last_task_has_ended(
    yard: Yard, runner: HeldLease
) -> None:
    _, works = await running(yard, runner)

    for work in works:
        [queue] = (await yard.list_queues(ACME, PageRequest(size=10, after=None))).items
        assert (queue.queued_count, queue.running_count) == (0, 1)
        await ends(yard, runner, work)
    assert (await yard.list_queues(ACME, PageRequest(size=10, after=None))).items == []


async def test_attempts_are_listed_by_number_and_task_page_by_page(
    yard: Yard, runner: HeldLease
) -> None:
    job, works = await running(yard, runner)
    for work in works:
        await recording(yard).lost(runner, work, LOST)
    yard.clock.seconds += 10
    await yard.cycle()

    seen: list[tuple[int, int]] = []
    page = PageRequest(size=3, after=None)
    while True:
        found = await ListAttempts(yard.store)(ACME, job.id, page)
        seen += [(each.number, each.task) for each in found.items]
        if not found.next_token:
            break
        page = PageRequest(size=3, after=found.items[-1].id)

    assert seen == [(number, task) for number in (1, 2) for task in range(4)]


async def test_tasks_that_never_fit_in_the_plan_together_are_refused(
    yard: Yard, runner: HeldLease
) -> None:
    yard.tenant(ACME, running_max=resources(cpu=3, memory=9))

    with pytest.raises(InvalidArgument) as refusal:
        await a_gang(yard)

    assert refusal.value.detail["field"] == "spec.task_count"
    assert "cpu_millicores 4000 together" in refusal.value.message
    job = await a_gang(yard, tasks=3)
    assert await yard.cycle() == [(job.id, Outcome.PLACED)]
