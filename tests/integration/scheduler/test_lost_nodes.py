"""A node that nobody holds any more: given up on a real database, and taken back by its runner."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from services.chassis.db.lease import HeldLease, PostgresLeases
from services.chassis.errors import Conflict
from services.scheduler.adapters.postgres.tables import CHASSIS
from services.scheduler.domain.attempts.attempt import Attempt, AttemptState, LogLocation
from services.scheduler.domain.attempts.ending import AttemptEnding, EndReason
from services.scheduler.domain.attempts.runtime import ContainerExit
from services.scheduler.domain.attempts.work import AttemptWork
from services.scheduler.domain.deployments.replica import ReplicaState
from services.scheduler.domain.fleet.loss import Looks
from services.scheduler.domain.fleet.node import lease_name
from services.scheduler.domain.identities import AttemptId, NodeId
from services.scheduler.domain.jobs.failure import FailureReason
from services.scheduler.domain.jobs.job import JobState, StopCause
from services.scheduler.domain.jobs.retries import JobRetries
from services.scheduler.domain.resources import Resources
from services.scheduler.use_cases.attempts.keep_node import KeepNode
from services.scheduler.use_cases.attempts.record_attempt import RecordAttempt, Succeeded
from services.scheduler.use_cases.fleet.declare_nodes_lost import DeclareNodesLost
from services.scheduler.use_cases.jobs.ask_to_stop import ask_to_stop
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import Outcome
from tests.integration.scheduler.yard import Yard, cores
from tests.unit.scheduler.builders import ACME, NODE

OTHER = NodeId("node-2")
LOST_AFTER = timedelta(minutes=6)
TTL = timedelta(seconds=10)


def recording(yard: Yard) -> RecordAttempt:
    return RecordAttempt(yard.store, retried_jobs_max=100, chance=lambda: 0.0)


def losing(yard: Yard, *, looks: int = 1) -> DeclareNodesLost:
    return DeclareNodesLost(
        yard.store, recording(yard), Looks(LOST_AFTER, looks), nodes_per_pass_max=10
    )


async def passed(yard: Yard) -> int:
    """Run one pass as the leader, to whom one look is enough."""
    return await losing(yard)(await yard.lease())


async def taken(yard: Yard, *, holder: str = "runner_1") -> HeldLease:
    """Take the node's lease as its runner."""
    leases, name = PostgresLeases(yard.engine, CHASSIS), lease_name(NODE)
    epoch = await leases.take(name, holder=holder, ttl=TTL)
    assert epoch is not None
    return HeldLease(name, holder, epoch)


async def run_out(yard: Yard, *, ago: timedelta = LOST_AFTER) -> None:
    """Let the node's lease have run out so long ago."""
    async with yard.engine.begin() as connection:
        await connection.execute(
            sa.update(CHASSIS.lease)
            .where(CHASSIS.lease.c.name == lease_name(NODE))
            .values(expires_at=sa.func.clock_timestamp() - ago)
        )


async def attempt_of(yard: Yard, work: AttemptWork) -> Attempt:
    async with yard.store.system(because="test") as tx:
        return await tx.attempts.get(work.attempt.id)


@pytest.fixture
async def runner(yard: Yard) -> HeldLease:
    """Give the lease of the runner of the one node."""
    await yard.a_node()
    return await taken(yard)


async def started(yard: Yard, lease: HeldLease, **job: Any) -> AttemptWork:
    """Let a job run on the node."""
    await yard.a_job(**job)
    await yard.cycle()
    [work] = await yard.open_work()
    location = LogLocation("x/container.log")
    await recording(yard).started(lease, work, log_location=location, at=yard.clock.now())
    [work] = await yard.open_work()
    return work


async def test_jobs_of_a_lost_node_are_tried_again_elsewhere(yard: Yard, runner: HeldLease) -> None:
    work = await started(yard, runner)
    await run_out(yard)

    assert await passed(yard) == 1

    node = await yard.node()
    assert (node.lost_at is not None, node.used) == (True, Resources())
    attempt = await attempt_of(yard, work)
    assert (attempt.state, attempt.exit_code) == (AttemptState.LOST, None)
    assert attempt.ending == AttemptEnding(EndReason.LOST, "its node node-1 is lost")
    assert (await yard.event_types(attempt.id))[-1] == "attempt.lost"
    job = await yard.job(attempt.owner.id)
    assert (job.state, job.retry_count) == (JobState.QUEUED, 1)
    assert job.reason == "retry 1 of 3 in 5 s: its node node-1 is lost"
    assert await passed(yard) == 0

    yard.clock.seconds += 10
    await yard.beats(is_runtime_up=True)  # whatever it says, it is lost
    assert await yard.cycle() == []
    await yard.a_node(name=OTHER)
    assert await yard.cycle() == [(job.id, Outcome.PLACED)]
    assert (await yard.job(job.id)).node_id == OTHER
    await yard.check()


async def test_attempt_of_which_no_start_was_recorded_is_lost_too(
    yard: Yard, runner: HeldLease
) -> None:
    job = await yard.a_job(retries=JobRetries(count_max=0))
    await yard.cycle()
    [work] = await yard.open_work()
    await run_out(yard)

    await passed(yard)

    assert (await attempt_of(yard, work)).state is AttemptState.LOST
    failed = await yard.job(job.id)
    assert failed.failure is not None
    assert (failed.state, failed.failure.reason) == (JobState.FAILED, FailureReason.LOST)
    await yard.check()


@pytest.mark.parametrize(
    ("cause", "state"),
    [(StopCause.CANCELLED, JobState.CANCELLED), (StopCause.DRAINED, JobState.QUEUED)],
)
async def test_job_that_was_asked_to_stop_ends_as_it_would_have(
    yard: Yard, runner: HeldLease, cause: StopCause, state: JobState
) -> None:
    work = await started(yard, runner)
    async with yard.store.system(because="test") as tx:
        job = await tx.jobs.get_any(work.attempt.owner.id)  # type: ignore[arg-type]
        await ask_to_stop(tx, job, reason="asked", cause=cause)
    await run_out(yard)

    await passed(yard)

    job = await yard.job(job.id)
    assert (job.state, job.retry_count) == (state, 0)
    assert (await attempt_of(yard, work)).ending == AttemptEnding(EndReason(cause), "asked")


async def test_replicas_of_a_lost_node_leave_the_routes_and_come_up_elsewhere(
    yard: Yard, runner: HeldLease
) -> None:
    [replica] = (await yard.a_deployment(resources=cores(1))).replicas
    await yard.cycle()
    await yard.ready(replica.id, "127.0.0.1:9000")
    await run_out(yard)

    await passed(yard)

    assert list((await yard.routes(replica.deployment_id))[-1].endpoints) == []
    await yard.a_node(name=OTHER)
    yard.clock.seconds += 10
    await yard.reconciled()
    assert [placed for placed, _ in await yard.cycle()] == [replica.id]
    [moved] = (await yard.get_deployment(ACME, "digits")).replicas
    assert (moved.node_id, moved.state) == (OTHER, ReplicaState.WARMING)
    await yard.check()


async def test_late_report_of_a_runner_that_is_back_is_refused(
    yard: Yard, runner: HeldLease
) -> None:
    work = await started(yard, runner)
    await run_out(yard)
    await passed(yard)
    end = ContainerExit(0, None, None, yard.clock.now(), yard.clock.now())

    async def report(lease: HeldLease) -> bool:
        return await recording(yard).exited(lease, work, end, Succeeded(()), progress=None)

    with pytest.raises(Conflict):
        await report(runner)
    again = await taken(yard)
    assert again.epoch == runner.epoch + 2
    assert not await report(again)
    assert (await attempt_of(yard, work)).state is AttemptState.LOST
    assert (await yard.job(work.attempt.owner.id)).state is JobState.QUEUED


async def test_node_takes_work_again_when_its_runner_says_that_it_is_tidy(
    yard: Yard, runner: HeldLease
) -> None:
    await run_out(yard)
    await passed(yard)
    node = KeepNode(yard.store, NODE, cores(4), "process", allows_mixed_tenants=True)
    with pytest.raises(Conflict):
        await node.come_back(runner)

    again = await taken(yard)
    assert await node.register(again, is_runtime_up=True)
    job = await yard.a_job()
    assert await yard.cycle() == []
    await node.come_back(again)
    assert not await node.register(again, is_runtime_up=True)
    assert await yard.cycle() == [(job.id, Outcome.PLACED)]


async def test_node_is_not_lost_while_somebody_holds_it_or_did_lately(
    yard: Yard, runner: HeldLease
) -> None:
    assert await passed(yard) == 0
    await run_out(yard, ago=LOST_AFTER - timedelta(seconds=30))
    assert await passed(yard) == 0
    assert (await yard.node()).lost_at is None


async def test_node_whose_runner_is_back_with_the_database_is_not_lost(
    yard: Yard, runner: HeldLease
) -> None:
    await run_out(yard)
    leader = losing(yard, looks=2)
    assert await leader(await yard.lease()) == 0
    await taken(yard)
    assert await leader(await yard.lease()) == 0
    await run_out(yard)
    assert [await leader(await yard.lease()) for _ in range(2)] == [0, 1]


async def test_runner_that_is_back_between_look_and_loss_keeps_its_node(
    yard: Yard, runner: HeldLease
) -> None:
    await run_out(yard)
    async with yard.store.system(because="test") as tx:
        [unheld] = await tx.nodes.unheld(limit=10)
    held = await taken(yard)
    await run_out(yard, ago=TTL)  # and gone again

    async with yard.store.system(because="test") as tx:
        seized = await tx.seize(held.name, holder="proc_1", unheld_for=unheld.unheld_for)
    assert seized is None


async def test_leader_leaves_what_it_had_not_ended_to_a_runner_that_is_back(
    yard: Yard, runner: HeldLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        await yard.a_job(resources=cores(1))
    await yard.cycle()
    await run_out(yard)
    record = RecordAttempt.lost
    ended: list[AttemptId] = []

    async def record_and_be_late(
        self: RecordAttempt, lease: Any, work: AttemptWork, *rest: Any
    ) -> None:
        await record(self, lease, work, *rest)
        ended.append(work.attempt.id)
        await taken(yard)

    monkeypatch.setattr(RecordAttempt, "lost", record_and_be_late)
    assert await passed(yard) == 1

    [left] = await yard.open_work()
    assert ended != [left.attempt.id]
    assert len(ended) == 1
    assert await passed(yard) == 0
    await yard.check()


async def test_only_the_leader_gives_nodes_up(yard: Yard, runner: HeldLease) -> None:
    work = await started(yard, runner)
    await run_out(yard)
    former = await yard.lease(ttl_s=0)
    await yard.lease(holder="proc_2")
    with pytest.raises(Conflict):
        await losing(yard)(former)
    assert (await attempt_of(yard, work)).state is AttemptState.STARTED
    assert (await yard.node()).lost_at is None


async def test_attempts_that_a_leader_left_open_are_ended_by_the_next_one(
    yard: Yard, runner: HeldLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = await started(yard, runner)
    await run_out(yard)

    async def die(*_: Any) -> None:
        raise Conflict("process", "killed")

    with monkeypatch.context() as dying:
        dying.setattr(RecordAttempt, "lost", die)
        assert await passed(yard) == 1
    assert (await attempt_of(yard, work)).state is AttemptState.STARTED

    await losing(yard)(await yard.lease())
    assert (await attempt_of(yard, work)).state is AttemptState.LOST
    await yard.check()
