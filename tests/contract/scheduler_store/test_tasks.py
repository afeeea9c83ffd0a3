"""Attempts of a job's tasks: which go on, where, and in what order they are told."""

from collections.abc import Sequence

import pytest
from sqlalchemy.exc import IntegrityError

from services.scheduler.domain.attempts.attempt import Attempt, Owner, OwnerKind
from services.scheduler.domain.identities import AttemptId, JobId, NodeId
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import Job, JobState, OutputManifest
from tests.contract.scheduler_store.conftest import Store
from tests.unit.scheduler.builders import ACME, ENDING, NODE, NOW, a_spec, later, resources

JOB = JobId("job_1")
NODES = (NODE, NodeId("node-2"), NODE)


def attempts(*, number: int, node_ids: Sequence[NodeId] = NODES) -> list[Attempt]:
    return [
        Attempt.created(
            AttemptId(f"att_{number}_{task}"),
            ACME,
            Owner(OwnerKind.JOB, JOB, public_id=JOB),
            number=number,
            node_id=node_id,
            resources=resources(),
            at=NOW,
            traceparent=None,
            task=task,
            task_count=len(node_ids),
        )[0]
        for task, node_id in enumerate(node_ids)
    ]


@pytest.fixture(autouse=True)
async def _placed(store: Store) -> None:
    """Place a job of three tasks on two nodes."""
    spec = a_spec(resources=resources(), task_count=3)
    job, _ = Job.queued(JOB, ACME, spec, at=NOW, traceparent=None)
    async with store.unit_of_work.system(because="test") as tx:
        for node_id in set(NODES):
            await tx.nodes.register(
                node_id, resources(cpu=4, memory=8), runtime="process", allows_mixed_tenants=True
            )
        await tx.jobs.add([job])
    async with store.unit_of_work.system(because="test") as tx:
        job, _ = (await tx.jobs.get_any(JOB)).admitted(AttemptId("att_1_0"), *NODES, at=NOW)
        await tx.jobs.admit([job])
        await tx.attempts.add(attempts(number=1))


async def end(store: Store, *tasks: int) -> None:
    async with store.unit_of_work.system(because="test") as tx:
        for task in tasks:
            attempt = await tx.attempts.get(AttemptId(f"att_1_{task}"))
            await tx.attempts.save(attempt.closed(ENDING, at=NOW)[0])


async def test_a_job_goes_on_until_the_last_of_its_tasks_has_ended(store: Store) -> None:
    seen = []
    for task in range(3):
        await end(store, task)
        async with store.unit_of_work.system(because="test") as tx:
            goes_on = await tx.attempts.goes_on(JOB, number=1)
            seen.append((goes_on, await tx.attempts.nodes_of(JOB)))
            assert not await tx.attempts.goes_on(JOB, number=2)
            assert not await tx.attempts.goes_on(JobId("job_2"), number=1)
    assert seen == [(True, [NODE, "node-2"]), (True, [NODE]), (False, [])]


async def test_tasks_are_read_with_their_job_where_they_run(store: Store) -> None:
    async with store.unit_of_work.reading(because="test") as reading:
        works = await reading.attempts.open_on_node(NODE)
    assert [(work.attempt.task, work.attempt.task_count) for work in works] == [(0, 3), (2, 3)]
    assert all(work.is_current for work in works)


async def test_attempts_come_by_number_then_by_task(store: Store) -> None:
    await end(store, 0, 1, 2)
    async with store.unit_of_work.system(because="test") as tx:
        await tx.attempts.add(attempts(number=2))
    async with store.unit_of_work(ACME) as tx:
        first = await tx.jobs.attempts(JOB, after=None, limit=2)
        rest = await tx.jobs.attempts(JOB, after=first[-1].id, limit=9)
    assert [(each.number, each.task) for each in [*first, *rest]] == [
        (number, task) for number in (1, 2) for task in range(3)
    ]


async def test_a_task_has_one_open_attempt(store: Store) -> None:
    with pytest.raises((IntegrityError, AssertionError)):
        async with store.unit_of_work.system(because="test") as tx:
            await tx.attempts.add(attempts(number=2, node_ids=[NODE]))


async def test_what_a_job_keeps_while_others_go_on_is_there_again(store: Store) -> None:
    outputs = (OutputManifest("model", "digits", ()),)
    failure = JobFailure(FailureReason.LOST, "task 1: gone", last_lines="x")
    async with store.unit_of_work.system(because="test") as tx:
        job = (await tx.jobs.get_any(JOB)).kept_output(outputs)
        moved = job.task_failed(failure, at=later(1))
        assert moved is not None
        await tx.jobs.save(moved[0])
    async with store.unit_of_work(ACME) as tx:
        job = await tx.jobs.get(JOB)
    assert (job.state, job.kept_outputs) == (JobState.STOPPING, outputs)
    assert job.stop is not None
    assert job.stop.failure == failure


async def test_a_job_is_found_on_each_drained_node_once(store: Store) -> None:
    for node_id in set(NODES):
        async with store.unit_of_work.system(because="test") as tx:
            await tx.nodes.save((await tx.nodes.get(node_id)).drained(at=NOW))
            assert await tx.jobs.placed_on_drained(limit=10) == [JOB]


async def test_a_job_waited_once_for_all_of_its_tasks(store: Store) -> None:
    async with store.unit_of_work(ACME) as tx:
        [waits] = await tx.jobs.waits(since=NOW, limit=10)
    assert waits.waited.job_count == 1


async def test_who_waits_in_line_says_how_many_tasks_it_has(store: Store) -> None:
    spec = a_spec(task_count=5)
    job, _ = Job.queued(JobId("job_2"), ACME, spec, at=NOW, traceparent=None)
    async with store.unit_of_work.system(because="test") as tx:
        await tx.jobs.add([job])
    async with store.unit_of_work.system(because="test") as tx:
        [head] = (await tx.line.first(at=NOW, each_max=10)).heads
        news = await tx.line.take_news(limit=10, with_totals=True)
    [waiting] = [each.waiting for each in news.changes if each.waiting is not None]
    assert head == waiting.head
    assert head.task_count == 5


async def test_the_stop_of_a_job_frees_what_all_of_its_tasks_hold(store: Store) -> None:
    async with store.unit_of_work.reading(because="test") as look:
        [running] = await look.attempts.running(preemptible_by=1)
    assert running.held == {NODE: resources() + resources(), NODES[1]: resources()}
