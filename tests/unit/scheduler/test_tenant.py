"""What the scheduler makes of a tenant's events."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from modelyard.gateway.v1 import tenant_events_pb2 as pb

from services.chassis.errors import InvalidArgument, TenantSuspended
from services.chassis.events.envelope import Event
from services.chassis.tenancy import TenantId
from services.scheduler.domain.deployments.replica import ReplicaState
from services.scheduler.domain.fleet.reach import FleetDoors
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import (
    Job,
    JobState,
    JobTransitioned,
    Phase,
    StopCause,
    StopRequest,
)
from services.scheduler.domain.jobs.spec import JobDependency
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.tenants.tenant import Plan, Tenant, TenantTable
from services.scheduler.entrypoints.consumers.tenants import ApplyTenants, from_pb
from tests.unit.scheduler.builders import (
    ACME,
    NODE,
    NOW,
    UMBRELLA,
    a_job,
    a_replica,
    later,
    resources,
)

OPEN = FleetDoors(node_count=1, open_count=1)
SUSPENDED = Tenant(ACME, version=2, is_suspended=True, reason="unpaid", changed_at=NOW)


def an_event(tenant: pb.Tenant, *, kind: str = "modelyard.tenant.active.v1") -> Event:
    return Event(
        id="evt_1",
        source="/api-gateway",
        type=kind,
        subject=tenant.id,
        time=NOW,
        tenant=TenantId(tenant.id),
        dataschema="modelyard.gateway.v1.Tenant",
        data=tenant.SerializeToString(),
        traceparent=None,
        tracestate=None,
        topic="modelyard.tenant.v1",
        key=tenant.id,
        partition=0,
        offset=0,
    )


def a_message(**changes: Any) -> pb.Tenant:
    return pb.Tenant(**{"id": "acme", "state": pb.TENANT_STATE_ACTIVE, "version": 1, **changes})


def test_a_tenant_that_nobody_told_of_is_active_without_limits() -> None:
    table = TenantTable()
    table.get(ACME).check_active()
    assert table.get(ACME).plan == Plan()
    assert table.suspended() == {}


def test_only_a_higher_version_counts() -> None:
    table = TenantTable()
    assert table.apply(SUSPENDED)
    assert not table.apply(SUSPENDED)
    assert not table.apply(Tenant(ACME, version=1))
    assert list(table.suspended()) == [ACME]
    assert table.apply(Tenant(ACME, version=3))
    assert table.suspended() == {}


def test_a_purged_tenant_is_suspended_too() -> None:
    table = TenantTable()
    table.apply(from_pb(a_message(state=pb.TENANT_STATE_DELETING)))
    assert (list(table.suspended()), table.purged()) == ([ACME], [])
    table.apply(from_pb(a_message(state=pb.TENANT_STATE_PURGED, version=2)))
    assert (list(table.suspended()), table.purged()) == ([ACME], [ACME])


def test_others_learn_of_a_change_and_of_nothing_else() -> None:
    woken: list[int] = []
    apply = ApplyTenants(TenantTable(), lambda: woken.append(1))
    apply(an_event(a_message()))
    apply(an_event(a_message()))
    apply(an_event(a_message(version=9), kind="modelyard.something.else.v1"))
    assert len(woken) == 1


def test_a_plan_says_only_what_is_set() -> None:
    message = a_message(plan=pb.Plan(queued_jobs_max=0, priority_max=10))
    assert from_pb(message).plan == Plan(queued_jobs_max=0, priority_max=10)
    bounded = from_pb(a_message(plan=pb.Plan(running_gpu_count_max=0))).plan.running_max
    assert bounded is not None
    assert resources(cpu=999, memory=999).fits_in(bounded)
    assert not resources(gpus=1).fits_in(bounded)
    assert from_pb(message).changed_at == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_state_of_a_newer_release_counts_as_suspended() -> None:
    assert from_pb(a_message(state=77)).is_suspended
    assert not from_pb(a_message(state=77)).is_purged
    assert not from_pb(a_message()).is_suspended
    with pytest.raises(ValueError, match="state"):
        from_pb(a_message(state=pb.TENANT_STATE_UNSPECIFIED))


def test_a_plan_caps_the_priority() -> None:
    Plan().check_priority(100, field="spec.priority")
    Plan(priority_max=10).check_priority(10, field="spec.priority")
    with pytest.raises(InvalidArgument, match=r"at most 10 .* 11 was asked for") as refused:
        Plan(priority_max=10).check_priority(11, field="spec.priority")
    assert refused.value.detail["field"] == "spec.priority"


def test_what_waits_for_a_suspension_says_so() -> None:
    with pytest.raises(TenantSuspended):
        SUSPENDED.check_active()
    free = Resources()
    assert "unpaid" in SUSPENDED.job_shown(a_job(), booked=free, doors=OPEN).reason
    assert "unpaid" in SUSPENDED.replica_shown(a_replica(), doors=OPEN).reason
    running = a_job(state=JobState.RUNNING)
    assert SUSPENDED.job_shown(running, booked=free, doors=OPEN) == running
    ended = a_replica(state=ReplicaState.ENDED)
    assert SUSPENDED.replica_shown(ended, doors=OPEN) == ended
    assert Tenant(UMBRELLA).job_shown(a_job(), booked=resources(cpu=99), doors=OPEN) == a_job()


@pytest.mark.parametrize(
    ("table", "heard", "is_known"),
    [
        (TenantTable(), None, True),
        (TenantTable(is_whole=False), None, False),
        (TenantTable(is_whole=False), Tenant(ACME, version=1), True),
        (TenantTable(is_caught_up=False), None, False),
        (TenantTable(is_caught_up=False), Tenant(ACME, version=1), False),
    ],
)
def test_what_waits_until_its_tenant_is_known_says_so(
    table: TenantTable, heard: Tenant | None, is_known: bool
) -> None:
    if heard is not None:
        table.apply(heard)
    job, replica = a_job(), a_replica()
    found = table.get(ACME)
    found.check_active()
    if not is_known:
        for reason in (
            found.job_shown(job, booked=Resources(), doors=OPEN).reason,
            found.replica_shown(replica, doors=OPEN).reason,
        ):
            assert reason == "the scheduler does not know yet whether the tenant is suspended"
        running = a_job(state=JobState.RUNNING)
        assert found.job_shown(running, booked=Resources(), doors=OPEN) == running
        table.catch_up()
        table.complete()
    assert table.get(ACME).job_shown(job, booked=Resources(), doors=OPEN) == job
    assert table.get(ACME).replica_shown(replica, doors=OPEN) == replica


def test_what_is_known_of_a_suspension_goes_before_what_is_not_known_yet() -> None:
    table = TenantTable(is_caught_up=False)
    table.apply(SUSPENDED)
    assert "unpaid" in table.get(ACME).job_shown(a_job(), booked=Resources(), doors=OPEN).reason


def test_a_job_waits_for_its_own_tenants_work_when_that_uses_up_the_plan() -> None:
    bounded = Tenant(ACME, version=1, plan=Plan(running_max=resources(cpu=2, memory=2)))
    assert bounded.job_shown(a_job(), booked=resources(cpu=1), doors=OPEN) == a_job()
    assert "plan" in bounded.job_shown(a_job(), booked=resources(cpu=2), doors=OPEN).reason
    assert bounded.left(resources(cpu=3)) == Resources(memory_bytes=1 << 30)  # a smaller plan
    assert SUSPENDED.left(Resources()) == Resources()
    assert Tenant(ACME).left(resources(cpu=99)) is None


def test_a_job_that_waits_for_others_says_so_whatever_its_nodes_are_like() -> None:
    waiting = a_job(reason="waits for job job_2 to end", needs=(JobDependency(JobId("job_2")),))
    shut = FleetDoors(node_count=0)
    assert Tenant(ACME).job_shown(waiting, booked=Resources(), doors=shut) == waiting
    assert "unpaid" in SUSPENDED.job_shown(waiting, booked=Resources(), doors=shut).reason


def test_a_plan_refuses_what_could_never_run_in_it() -> None:
    plan = Plan(running_max=resources(cpu=2, memory=2))
    plan.check_resources(resources(cpu=2, memory=2), field="spec.resources")
    Plan().check_resources(resources(cpu=99), field="spec.resources")
    with pytest.raises(InvalidArgument, match=r"3000 asked for, .* at most 2000 run") as refused:
        plan.check_resources(resources(cpu=3), field="spec.resources")
    assert refused.value.detail["field"] == "spec.resources.cpu_millicores"
    with pytest.raises(InvalidArgument, match=r"3 GiB asked for, .* at most 2 GiB run"):
        plan.check_resources(resources(memory=3), field="spec.resources")


def asked(moved: tuple[Job, JobTransitioned] | None) -> Job:
    assert moved is not None
    return moved[0]


def a_suspended_job() -> Job:
    running = a_job(
        state=JobState.RUNNING, node_id=NODE, attempt_number=1, admitted_at=NOW, started_at=NOW
    )
    return asked(running.asked_to_stop(reason="unpaid", at=NOW, cause=StopCause.SUSPENDED))


def test_a_job_that_was_stopped_for_now_is_back_in_line_with_nothing_left_of_its_try() -> None:
    back, fact = a_suspended_job().requeued(reason="unpaid", at=later(1))
    assert back == replace(
        a_job(),
        version=3,
        attempt_number=1,
        reason="unpaid",
        state=JobState.QUEUED,
        ages_from=later(1),
    )
    assert fact.ended_phase is not None
    assert fact.ended_phase.phase is Phase.RUNNING
    _, again = back.cancelled(reason="", at=later(2))
    assert again.ended_phase is None  # since when it was back in line is not known


def test_a_job_that_would_come_back_can_be_cancelled_for_good() -> None:
    cancelled = asked(a_suspended_job().asked_to_stop(reason="mine", at=later(1)))
    assert cancelled.state is JobState.STOPPING
    assert cancelled.stop == StopRequest(StopCause.CANCELLED, "mine", later(1))
    assert cancelled.asked_to_stop(reason="", at=NOW, cause=StopCause.SUSPENDED) is None
    assert cancelled.asked_to_stop(reason="again", at=NOW) is None


def test_a_second_suspension_leaves_a_stopping_job_alone() -> None:
    again = a_suspended_job().asked_to_stop(reason="x", at=NOW, cause=StopCause.SUSPENDED)
    assert again is None


@pytest.mark.parametrize(
    ("doors", "why"),
    [
        (FleetDoors(node_count=2, open_count=1, cordoned_count=1), "submitted"),
        (FleetDoors(node_count=0), "there is no node yet"),
        (FleetDoors(node_count=3), "no node is large enough"),
        (
            FleetDoors(node_count=2, cordoned_count=1, held_count=1),
            "no node that is large enough takes anything new: "
            "1 cordoned, 1 holds another tenant's work",
        ),
        (
            FleetDoors(node_count=2, held_count=2),
            "no node that is large enough takes anything new: 2 hold another tenant's work",
        ),
        (
            FleetDoors(node_count=5, cordoned_count=1, silent_count=2, runtime_down_count=1),
            "no node that is large enough takes anything new: "
            "1 cordoned, 2 silent, 1 without its container runtime",
        ),
    ],
)
def test_who_waits_for_a_node_is_told_why_none_takes_it(doors: FleetDoors, why: str) -> None:
    tenant = Tenant(ACME)
    assert tenant.job_shown(a_job(), booked=Resources(), doors=doors).reason == why
    replica = a_replica()
    told = tenant.replica_shown(replica, doors=doors).reason
    assert told == (replica.reason if why == "submitted" else why)
    running = a_job(state=JobState.RUNNING)
    assert tenant.job_shown(running, booked=Resources(), doors=doors) == running
    assert "unpaid" in SUSPENDED.job_shown(a_job(), booked=Resources(), doors=doors).reason
