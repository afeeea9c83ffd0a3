"""Room for a job of a larger priority, made on a real database by those of smaller ones."""

import asyncio
from collections.abc import AsyncIterator
from contextvars import Context
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from services.chassis.db.lease import HeldLease, LeaseKeeper, PostgresLeases, Recurrence
from services.chassis.errors import Conflict
from services.chassis.waking import Waking
from services.scheduler.adapters.postgres.attempts import PostgresAttempts
from services.scheduler.adapters.postgres.tables import CHASSIS
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.attempts.ending import AttemptEnding, EndReason
from services.scheduler.domain.attempts.work import AttemptWork
from services.scheduler.domain.fleet.node import lease_name
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import Job, JobState, StopCause
from services.scheduler.domain.jobs.spec import JobTimeouts
from services.scheduler.domain.queues.queue import DEFAULT_QUEUE
from services.scheduler.domain.scheduling.line import Head, Shape
from services.scheduler.entrypoints.loops.preemption import MakeRoom
from services.scheduler.entrypoints.loops.scheduling import SchedulingLoop
from services.scheduler.use_cases.attempts.record_attempt import RecordAttempt
from services.scheduler.use_cases.jobs.ask_to_stop import ask_to_stop
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.ports import Lease, SystemTransaction
from services.scheduler.use_cases.scheduling import preempt_jobs
from services.scheduler.use_cases.scheduling.preempt_jobs import REASON, PreemptJobs
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import Outcome
from tests.integration.scheduler.yard import NODE_SILENCE_MAX, Yard, cores
from tests.unit.scheduler.builders import ACME, NODE, UMBRELLA

LARGE = 9
COUNTED = "modelyard_scheduler_jobs_preempted_total"


async def preempted(yard: Yard, lease: HeldLease | None = None) -> int:
    """Run a cycle, then a pass for whom it has left without room; tell how many are to stop."""
    report = await replace(yard.run_cycle, makes_room=True)(await yard.lease())
    if report.blocked is None:
        return 0
    preempt = PreemptJobs(yard.store, NODE_SILENCE_MAX)
    return await preempt(lease or await yard.lease(), report.blocked)


async def work_of(yard: Yard, job: Job, *, on: NodeId = NODE) -> AttemptWork:
    [work] = [work for work in await yard.open_work(on) if work.attempt.owner.id == job.id]
    return work


async def ended(yard: Yard, job: Job, *, on: NodeId = NODE) -> None:
    """Do what the runner does when a container that never ran is gone."""
    leases, name = PostgresLeases(yard.engine, CHASSIS), lease_name(on)
    epoch = await leases.take(name, holder="runner_1", ttl=timedelta(seconds=60))
    assert epoch is not None
    record = RecordAttempt(yard.store, retried_jobs_max=100, chance=lambda: 0.0)
    await record.closed(
        HeldLease(name, "runner_1", epoch),
        await work_of(yard, job, on=on),
        JobFailure(FailureReason.LOST, "never ran"),
    )


async def full(yard: Yard, **changes: Any) -> Job:
    """Fill the one node of four cores with one job of no priority."""
    await yard.a_node()
    job = await yard.a_job(resources=cores(4), **changes)
    await yard.cycle()
    return job


async def test_a_job_of_a_larger_priority_gets_the_room_of_a_smaller_one(yard: Yard) -> None:
    small = await full(yard, tenant=UMBRELLA)
    large = await yard.a_job(priority=LARGE, resources=cores(4))

    assert await preempted(yard) == 1
    stopping = await yard.job(small.id, tenant=UMBRELLA)
    assert stopping.stop is not None
    assert (stopping.state, stopping.stop.cause) == (JobState.STOPPING, StopCause.PREEMPTED)
    assert stopping.reason == REASON
    attempt_id = (await work_of(yard, small)).attempt.id

    await ended(yard, small)
    back = await yard.job(small.id, tenant=UMBRELLA)
    assert (back.state, back.reason, back.retry_count) == (JobState.QUEUED, REASON, 0)
    assert back.retry_at is None
    async with yard.store.system(because="test") as tx:
        attempt = await tx.attempts.get(attempt_id)
    assert attempt.ending == AttemptEnding(EndReason.PREEMPTED, REASON)
    assert (await yard.job_facts(small.id))[-1].reason == REASON

    assert await yard.cycle() == [(large.id, Outcome.PLACED)]
    await ended(yard, large)
    assert await yard.cycle() == [(small.id, Outcome.PLACED)]
    await yard.check()


async def test_there_is_no_second_round_while_those_of_the_first_stop(yard: Yard) -> None:
    await yard.a_node()
    for _ in range(2):
        await yard.a_job(resources=cores(2))
        await yard.cycle()
    large = await yard.a_job(priority=LARGE, resources=cores(2))
    assert await preempted(yard) == 1
    assert await preempted(yard) == 0

    [stopping] = [work for work in await yard.open_work() if work.stop is not None]
    await ended(yard, await yard.job(stopping.attempt.owner.id))
    assert await yard.cycle() == [(large.id, Outcome.PLACED)]


async def two_full_nodes(yard: Yard) -> list[tuple[Job, NodeId]]:
    """Fill two nodes with a job of no priority each; tell which is where."""
    nodes = [await yard.a_node(name=name) for name in (NODE, "node-2")]
    small = [await yard.a_job(resources=cores(4)) for _ in nodes]
    await yard.cycle()
    placed = [await yard.job(job.id) for job in small]
    return [(job, job.node_id) for job in placed if job.node_id is not None]


async def test_a_job_of_several_tasks_gets_room_for_all_of_them(yard: Yard) -> None:
    small = await two_full_nodes(yard)
    large = await yard.a_job(priority=LARGE, resources=cores(4), task_count=2)
    assert await preempted(yard) == 2
    assert await preempted(yard) == 0

    (first, where), (second, elsewhere) = small
    await ended(yard, first, on=where)
    assert await yard.cycle() == []
    await ended(yard, second, on=elsewhere)
    assert await yard.cycle() == [(large.id, Outcome.PLACED)]
    assert (await yard.job(large.id)).state is JobState.ADMITTED
    await yard.check()


async def test_nobody_is_stopped_for_some_of_the_tasks_of_a_job(yard: Yard) -> None:
    [(small, _), (other, _)] = await two_full_nodes(yard)
    await yard.a_node(name="node-3")
    await yard.a_deployment(resources=cores(4))
    await yard.cycle()
    await yard.a_job(priority=LARGE, resources=cores(4), task_count=3)
    assert await preempted(yard) == 0
    for job in (small, other):
        assert (await yard.job(job.id)).state is JobState.ADMITTED


async def test_who_is_not_asked_to_stop_in_one_pass_is_in_the_next(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_full_nodes(yard)
    await yard.a_job(priority=LARGE, resources=cores(4), task_count=2)
    monkeypatch.setattr(preempt_jobs, "STOPS_MAX", 1)
    assert [await preempted(yard) for _ in range(3)] == [1, 1, 0]


async def test_what_a_user_has_cancelled_makes_room_before_anybody_is_stopped(yard: Yard) -> None:
    await yard.a_node()
    cancelled = await yard.a_job(resources=cores(2))
    await yard.a_job(resources=cores(2))
    await yard.cycle()
    await CancelJob(yard.store)(ACME, cancelled.id, reason="")
    await yard.a_job(priority=LARGE, resources=cores(2))
    assert await preempted(yard) == 0


@pytest.mark.parametrize("priority", [3, 4])
async def test_equal_and_larger_priorities_are_left_alone(yard: Yard, priority: int) -> None:
    job = await full(yard, priority=priority)
    await yard.a_job(priority=3, resources=cores(4))
    assert await preempted(yard) == 0
    assert (await yard.job(job.id)).state is JobState.ADMITTED


async def test_replicas_are_left_alone(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_deployment(resources=cores(3))
    await yard.cycle()
    small = await yard.a_job(resources=cores(1))
    await yard.cycle()
    await yard.a_job(priority=LARGE, resources=cores(2))
    assert await preempted(yard) == 0
    assert (await yard.job(small.id)).state is JobState.ADMITTED


async def test_who_waits_for_a_replica_keeps_nobody_from_being_helped(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_deployment(resources=cores(3))
    await yard.cycle()
    await yard.a_job(resources=cores(1))
    await yard.cycle()
    await yard.a_job(priority=LARGE, resources=cores(2))
    await yard.a_job(priority=LARGE, resources=cores(1))
    assert await preempted(yard) == 1


async def test_nothing_is_stopped_of_another_tenant_beside_what_stays_on_a_node_of_one(
    yard: Yard,
) -> None:
    await yard.a_node(allows_mixed_tenants=False)
    for priority in (0, LARGE):
        await yard.a_job(tenant=UMBRELLA, priority=priority, resources=cores(1))
        await yard.cycle()
    await yard.a_job(priority=LARGE, resources=cores(1))
    assert await preempted(yard) == 0


async def test_a_node_of_one_tenant_is_emptied_for_another(yard: Yard) -> None:
    await yard.a_node(allows_mixed_tenants=False)
    small = [await yard.a_job(tenant=UMBRELLA, resources=cores(1)) for _ in range(2)]
    await yard.cycle()
    large = await yard.a_job(priority=LARGE, resources=cores(1))
    assert await preempted(yard) == 2
    await ended(yard, small[0])
    assert await yard.cycle() == []
    await ended(yard, small[1])
    assert await yard.cycle() == [(large.id, Outcome.PLACED)]


async def test_room_that_is_being_made_is_passed_by_nobody_who_stays_for_longer(
    yard: Yard,
) -> None:
    """By its limit the victim would be there for a day: what is asked to stop ends by its grace."""
    await yard.a_node()
    small = await yard.a_job(resources=cores(2))
    await yard.cycle()
    await yard.a_job(priority=LARGE, resources=cores(3))
    hour = JobTimeouts(run=timedelta(hours=1))
    await yard.a_job(resources=cores(1), timeouts=hour)
    assert await preempted(yard) == 1
    assert (await yard.job(small.id)).state is JobState.STOPPING
    assert await yard.cycle() == []


async def test_a_victim_that_was_cancelled_meanwhile_does_not_come_back(yard: Yard) -> None:
    small = await full(yard)
    large = await yard.a_job(priority=LARGE, resources=cores(4))
    assert await preempted(yard) == 1
    await CancelJob(yard.store)(ACME, small.id, reason="no need")
    await ended(yard, small)
    assert (await yard.job(small.id)).state is JobState.CANCELLED
    assert await yard.cycle() == [(large.id, Outcome.PLACED)]


async def late(yard: Yard, monkeypatch: pytest.MonkeyPatch, happens: Any) -> int:
    """Let something happen between the choice and its stops; tell how many were stopped."""
    look = PostgresAttempts.running

    async def look_and_be_late(attempts: PostgresAttempts, **given: Any) -> Any:
        seen = await look(attempts, **given)
        # In a context of its own: somebody else's transaction.
        await asyncio.get_running_loop().create_task(happens(), context=Context())
        return seen

    report = await yard.run_cycle(await yard.lease())
    assert report.blocked is not None
    lease = await yard.lease()
    monkeypatch.setattr(PostgresAttempts, "running", look_and_be_late)
    return await PreemptJobs(yard.store, NODE_SILENCE_MAX)(lease, report.blocked)


async def test_a_head_that_is_cancelled_meanwhile_stops_nobody(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = await full(yard)
    large = await yard.a_job(priority=LARGE, resources=cores(4))

    async def cancel() -> None:
        await CancelJob(yard.store)(ACME, large.id, reason="")

    assert await late(yard, monkeypatch, cancel) == 0
    assert (await yard.job(small.id)).state is JobState.ADMITTED


async def test_a_victim_that_is_placed_anew_meanwhile_is_not_the_one_that_was_chosen(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = await full(yard, tenant=UMBRELLA)
    large = await yard.a_job(priority=LARGE, resources=cores(4))

    async def place_anew() -> None:
        async with yard.store.system(because="test") as tx:
            job = await tx.jobs.get_any(small.id)
            await ask_to_stop(tx, job, reason="drained", cause=StopCause.DRAINED)
        await ended(yard, small)
        await yard.pause_queue(ACME, DEFAULT_QUEUE, reason="", by="tests")
        assert await yard.cycle() == [(small.id, Outcome.PLACED)]

    assert await late(yard, monkeypatch, place_anew) == 0
    assert (await yard.job(small.id, tenant=UMBRELLA)).state is JobState.ADMITTED
    assert (await yard.job(large.id)).state is JobState.QUEUED


async def test_only_the_leader_stops_jobs(yard: Yard) -> None:
    small = await full(yard)
    await yard.a_job(priority=LARGE, resources=cores(4))
    report = await yard.run_cycle(await yard.lease(ttl_s=0))
    former = await yard.lease(ttl_s=0)
    await yard.lease(holder="proc_2")
    assert report.blocked is not None
    with pytest.raises(Conflict):
        await PreemptJobs(yard.store, NODE_SILENCE_MAX)(former, report.blocked)
    assert (await yard.job(small.id)).state is JobState.ADMITTED


def making_room(yard: Yard) -> MakeRoom:
    return MakeRoom(
        PreemptJobs(yard.store, NODE_SILENCE_MAX), Recurrence(timedelta(seconds=1), yard.clock)
    )


async def test_who_waits_is_looked_for_now_and_again_and_a_new_first_one_at_once(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    async def look(_: PreemptJobs, lease: Lease, head: Head) -> int:
        looked.append(head.id)
        return 0

    monkeypatch.setattr(PreemptJobs, "__call__", look)
    make_room, lease = making_room(yard), await yard.lease()
    first, second = (
        Head(name, 1, Shape(OwnerKind.JOB, ACME, 0, cores(1), None)) for name in ("a", "b")
    )
    for head in (first, first, second, second):
        await make_room(lease, head)
    yard.clock.seconds += 1
    await make_room(lease, second)
    assert looked == ["a", "b", "b"]


async def test_who_was_asked_is_counted_though_another_victim_could_not_be(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await yard.a_node()
    small = [await yard.a_job(resources=cores(2)) for _ in range(2)]
    await yard.cycle()
    await yard.a_job(priority=LARGE, resources=cores(4))
    report = await yard.run_cycle(await yard.lease())
    assert report.blocked is not None

    async def asked(tx: SystemTransaction, job: Job, **given: Any) -> None:
        if job.id == small[0].id:
            raise Conflict("job", job.id)
        await ask_to_stop(tx, job, **given)

    monkeypatch.setattr(preempt_jobs, "ask_to_stop", asked)
    before = REGISTRY.get_sample_value(COUNTED)
    await making_room(yard)(await yard.lease(), report.blocked)
    states = [(await yard.job(job.id)).state for job in small]
    assert states == [JobState.ADMITTED, JobState.STOPPING]
    assert before is not None
    assert REGISTRY.get_sample_value(COUNTED) == before + 1


@pytest.fixture
async def keeper(yard: Yard) -> AsyncIterator[LeaseKeeper]:
    keeper = yard.lease_keeper("proc_1")
    yield keeper
    await keeper.release()


@pytest.mark.parametrize("is_on", [True, False])
async def test_the_leader_stops_jobs_after_its_cycle_where_that_is_switched_on(
    yard: Yard, keeper: LeaseKeeper, is_on: bool
) -> None:
    small = await full(yard)
    await yard.a_job(priority=LARGE, resources=cores(4))
    await keeper.acquire()
    make_room = making_room(yard) if is_on else None
    waking = Waking(timedelta(hours=1))
    loop = SchedulingLoop(yard.run_cycle, keeper, waking, lambda: True, lambda _: None, make_room)
    await loop.turn()
    state = JobState.STOPPING if is_on else JobState.ADMITTED
    assert (await yard.job(small.id)).state is state
