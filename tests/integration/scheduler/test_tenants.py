"""Tenants on a real database: a suspended one's work stops and returns; a plan bounds what runs."""

from datetime import timedelta

import pytest

from services.chassis.errors import InvalidArgument, QueueFull, QuotaExceeded, TenantSuspended
from services.chassis.tenancy import TenantId
from services.chassis.waking import Waking
from services.scheduler.domain.deployments.deployment import DeploymentState
from services.scheduler.domain.deployments.replica import ReplicaState
from services.scheduler.domain.jobs.job import JobState, StopCause
from services.scheduler.entrypoints.loops.leading import LeaderLoop, WhileLeading
from services.scheduler.use_cases.paging import PageRequest
from services.scheduler.use_cases.ports import RequestKey
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import Outcome
from tests.integration.scheduler.yard import ROUTES_SETTLE, Yard, cores
from tests.unit.scheduler.builders import ACME, TRACEPARENT, UMBRELLA, a_spec, resources

UNKNOWN = "the scheduler does not know yet whether the tenant is suspended"


async def stopped(yard: Yard) -> int:
    """Run one pass as the leader."""
    return await yard.stop_suspended_jobs(await yard.lease())


async def test_a_suspended_tenant_starts_nothing(yard: Yard) -> None:
    yard.tenant(ACME, is_suspended=True)
    with pytest.raises(TenantSuspended, match="unpaid"):
        await yard.a_job()
    with pytest.raises(TenantSuspended):
        await yard.a_deployment()
    await yard.a_job(tenant=UMBRELLA)

    yard.tenant(ACME)
    await yard.a_job()


async def test_a_repeated_request_is_answered_as_before_the_suspension(yard: Yard) -> None:
    async def submit() -> str:
        key = RequestKey("key-1", b"hash of the body")
        return (await yard.submit_job(ACME, a_spec(), key=key, traceparent=TRACEPARENT)).id

    made = await submit()
    yard.tenant(ACME, is_suspended=True)
    assert await submit() == made


async def test_the_line_passes_over_a_suspended_tenant_and_its_jobs_say_why(yard: Yard) -> None:
    await yard.a_node()
    waiting = await yard.a_job(resources=cores(3))
    other = await yard.a_job(tenant=UMBRELLA, resources=cores(3))
    yard.tenant(ACME, is_suspended=True)

    assert [placed for placed, _ in await yard.cycle()] == [other.id]
    shown = await yard.get_job(ACME, waiting.id)
    assert (shown.state, shown.reason) == (JobState.QUEUED, "the tenant is suspended: unpaid")
    page = await yard.list_jobs(ACME, PageRequest())
    assert [job.reason for job in page.items] == [shown.reason]
    assert await yard.event_types(waiting.id) == ["job.queued"]  # nothing has happened to it

    await yard.a_node(name="node-2")
    yard.tenant(ACME)
    assert [placed for placed, _ in await yard.cycle()] == [waiting.id]


async def test_who_may_have_been_missed_is_not_admitted_until_all_tenants_are_told(
    yard: Yard,
) -> None:
    await yard.a_node()
    yard.tenant(UMBRELLA)
    unknown, known = await yard.a_job(), await yard.a_job(tenant=UMBRELLA)
    yard.tenants.is_whole = False  # as at a start

    assert [placed for placed, _ in await yard.cycle()] == [known.id]
    waiting = await yard.get_job(ACME, unknown.id)
    assert (waiting.state, waiting.reason) == (JobState.QUEUED, UNKNOWN)
    [listed] = (await yard.list_jobs(ACME, PageRequest())).items
    assert listed.reason == UNKNOWN
    assert (await yard.job(unknown.id)).reason == "submitted"  # nothing is written for it

    yard.tenants.complete()
    assert (await yard.get_job(ACME, unknown.id)).reason == "submitted"
    assert [placed for placed, _ in await yard.cycle()] == [unknown.id]


async def test_a_replica_of_a_tenant_that_may_have_been_missed_waits_too(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_deployment()
    yard.tenants.is_whole = False

    assert await yard.cycle() == []
    yard.tenant(ACME)  # its event has come
    assert [outcome for _, outcome in await yard.cycle()] == [Outcome.PLACED]


async def test_running_jobs_of_a_suspended_tenant_are_asked_to_stop_and_nobody_elses(
    yard: Yard,
) -> None:
    await yard.a_node()
    mine, other = await yard.a_job(), await yard.a_job(tenant=UMBRELLA)
    waiting = await yard.a_job(resources=cores(4))
    await yard.cycle()
    assert await stopped(yard) == 0

    yard.tenant(ACME, is_suspended=True)
    assert await stopped(yard) == 1
    assert await stopped(yard) == 0
    job = await yard.job(mine.id)
    assert job.state is JobState.STOPPING
    assert job.stop is not None
    assert (job.stop.cause, job.stop.reason) == (
        StopCause.SUSPENDED,
        "the tenant is suspended: unpaid",
    )
    assert (await yard.job(other.id, tenant=UMBRELLA)).state is JobState.ADMITTED
    assert (await yard.job(waiting.id)).state is JobState.QUEUED
    stops = [work.stop is not None for work in await yard.open_work()]
    assert sorted(stops) == [False, True]


async def test_tenants_that_are_suspended_or_purged_may_be_any_number(yard: Yard) -> None:
    """More than a statement can have parameters: purged ones only become more."""
    for number in range(33_000):
        yard.tenant(TenantId(f"gone-{number}"), is_purged=True)
    await yard.a_node()
    mine, other = await yard.a_job(), await yard.a_job(tenant=UMBRELLA)
    assert len(await yard.cycle()) == 2

    yard.tenant(ACME, is_suspended=True)
    assert await stopped(yard) == 1
    assert await yard.reconciled() == 0
    assert (await yard.job(mine.id)).state is JobState.STOPPING
    assert (await yard.job(other.id, tenant=UMBRELLA)).state is JobState.ADMITTED


async def test_an_admission_that_came_late_is_found_at_the_next_look(yard: Yard) -> None:
    """The leader that admits has not heard yet; the one that stops has."""
    await yard.a_node()
    job = await yard.a_job()
    await yard.cycle()
    yard.tenant(ACME, is_suspended=True)
    assert await stopped(yard) == 1
    assert (await yard.job(job.id)).state is JobState.STOPPING


async def test_a_tenant_that_was_resumed_meanwhile_keeps_its_jobs(yard: Yard) -> None:
    await yard.a_node()
    job = await yard.a_job()
    await yard.cycle()
    yard.tenant(ACME, is_suspended=True)
    yard.tenant(ACME)
    assert await stopped(yard) == 0
    assert (await yard.job(job.id)).state is JobState.ADMITTED


async def test_only_the_leader_stops(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_job()
    await yard.cycle()
    yard.tenant(ACME, is_suspended=True)
    keeper = yard.lease_keeper("proc_2")
    loop = LeaderLoop(
        WhileLeading(yard.stop_suspended_jobs, keeper),
        Waking(timedelta(hours=1)),
        done="stopped",
        failed="failed",
    )
    await loop.turn()  # proc_1 holds the lease
    assert [work.stop for work in await yard.open_work()] == [None]


async def test_deployments_go_to_no_replica_and_return(yard: Yard) -> None:
    await yard.a_node()
    made = await yard.a_deployment(replica_count=2, resources=cores(1))
    await yard.cycle()
    ready, warming = made.replicas
    await yard.ready(ready.id, "127.0.0.1:9000")

    yard.tenant(ACME, is_suspended=True)
    await yard.reconciled()
    states = {each.id: each.state for each in (await yard.get_deployment(ACME, "digits")).replicas}
    assert states == {ready.id: ReplicaState.READY, warming.id: ReplicaState.STOPPING}
    yard.clock.seconds += ROUTES_SETTLE.total_seconds()
    await yard.reconciled()
    assert list((await yard.routes(made.deployment.id))[-1].endpoints) == []

    for each in (ready, warming):
        await yard.replica_ended(each.id)
    await yard.reconciled()
    assert await yard.cycle() == []  # the line passes over them
    shown = await yard.get_deployment(ACME, "digits")
    assert shown.deployment.state is DeploymentState.PREPARING
    assert {(each.state, each.reason) for each in shown.replicas} == {
        (ReplicaState.QUEUED, "the tenant is suspended: unpaid")
    }
    assert await yard.reconciled() == 0  # nothing is left to do

    yard.tenant(ACME)
    assert {placed for placed, _ in await yard.cycle()} == {ready.id, warming.id}
    await yard.ready(ready.id, "127.0.0.1:9001")
    assert (await yard.get_deployment(ACME, "digits")).deployment.state is DeploymentState.SERVING


async def test_a_deployment_can_be_deleted_while_its_replicas_stop_for_now(yard: Yard) -> None:
    await yard.a_node()
    made = await yard.a_deployment()
    await yard.cycle()
    [replica] = made.replicas
    yard.tenant(ACME, is_suspended=True)
    await yard.reconciled()
    await yard.delete_deployment(ACME, "digits")
    await yard.replica_ended(replica.id)
    await yard.reconciled()
    shown = await yard.get_deployment(ACME, made.deployment.id)
    assert shown.deployment.state is DeploymentState.DELETED


async def test_a_plan_goes_before_the_schedulers_own_settings(yard: Yard) -> None:
    yard.tenant(ACME, queued_jobs_max=1, replicas_max=5, priority_max=10)
    await yard.a_job(priority=10)
    with pytest.raises(QueueFull):
        await yard.a_job()
    with pytest.raises(InvalidArgument) as refused:
        await yard.a_job(priority=11)
    assert refused.value.detail["field"] == "spec.priority"
    await yard.a_deployment(replica_count=5)
    with pytest.raises(QuotaExceeded):
        await yard.a_deployment(name="second")
    for _ in range(3):
        await yard.a_job(tenant=UMBRELLA, priority=50)


async def test_a_tenant_runs_no_more_than_its_plan_and_others_pass(yard: Yard) -> None:
    await yard.a_node(resources(cpu=16, memory=32))
    yard.tenant(ACME, running_max=resources(cpu=3, memory=32))
    replica = (await yard.a_deployment(resources=cores(1))).replicas[0]
    first, second, third = [await yard.a_job(resources=cores(2)) for _ in range(3)]
    other = await yard.a_job(tenant=UMBRELLA, resources=cores(8))

    assert [placed for placed, _ in await yard.cycle()] == [replica.id, other.id, first.id]
    assert await yard.cycle() == []
    waiting = await yard.get_job(ACME, second.id)
    assert "the tenant's plan" in waiting.reason
    page = await yard.list_jobs(ACME, PageRequest())
    assert [job.reason for job in page.items][:2] == [waiting.reason] * 2

    running = await yard.job(first.id)
    assert running.attempt_id is not None
    await yard.end(running.attempt_id)
    assert [placed for placed, _ in await yard.cycle()] == [second.id]
    yard.tenant(ACME)  # without a plan
    assert [placed for placed, _ in await yard.cycle()] == [third.id]


async def test_those_who_wait_for_their_plan_leave_the_places_at_the_head_to_others(
    yard: Yard,
) -> None:
    await yard.a_node()
    yard.tenant(ACME, running_max=resources(cpu=1, memory=8), queued_jobs_max=60)
    jobs = [await yard.a_job() for _ in range(52)]  # more than a cycle looks at
    other = await yard.a_job(tenant=UMBRELLA)
    assert [placed for placed, _ in await yard.cycle()] == [jobs[0].id, other.id]


async def test_what_could_never_run_in_the_plan_is_refused(yard: Yard) -> None:
    yard.tenant(ACME, running_max=resources(cpu=1, memory=8))
    for refused in (
        yard.a_job(resources=cores(2)),
        yard.a_deployment(resources=cores(2)),
    ):
        with pytest.raises(InvalidArgument) as named:
            await refused
        assert named.value.detail["field"] == "spec.resources.cpu_millicores"
