"""Deployments and replicas: names, states, restarts, routing, deletion."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.deployments.deployment import (
    Deployment,
    DeploymentState,
    ReplicaEndpoint,
)
from services.scheduler.domain.deployments.model import ModelReference
from services.scheduler.domain.deployments.next_steps import OTHERS_AWAITED_MAX, next_steps
from services.scheduler.domain.deployments.replica import (
    Replica,
    ReplicaState,
    restart_delay,
)
from services.scheduler.domain.identities import AttemptId, NodeId, ReplicaId
from services.scheduler.domain.tenants.tenant import Tenant
from tests.unit.scheduler.builders import (
    ACME,
    NODE,
    NOW,
    a_deployment,
    a_deployment_spec,
    a_replica,
    later,
)

SETTLE = timedelta(seconds=2)


def steps(
    deployment: Deployment,
    replicas: list[Replica],
    *,
    at: datetime,
    tenant: Tenant | None = None,
    draining: Mapping[NodeId, datetime] | None = None,
) -> list[Replica]:
    return next_steps(
        deployment,
        replicas,
        tenant=tenant or Tenant(ACME),
        draining=draining or {},
        at=at,
        routes_settle=SETTLE,
    )


def a_warming_replica() -> Replica:
    return a_replica().placed(AttemptId("att_1"), NODE)


def a_ready_replica(name: str = "rep_1", *, address: str = "127.0.0.1:9000") -> Replica:
    replica = a_replica(id=ReplicaId(name)).placed(AttemptId("att_1"), NODE)
    return replica.ready(address, at=NOW)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("models:/digits@champion", ModelReference("digits", alias="champion")),
        ("models:/digits/12", ModelReference("digits", version=12)),
    ],
)
def test_a_model_is_named_by_alias_or_version(text: str, reference: ModelReference) -> None:
    assert ModelReference.parse(text, field="spec.model") == reference


@pytest.mark.parametrize(
    "text", ["", "digits", "models:/digits", "models:/digits/0", "models:/a/b/1", "models:/a@"]
)
def test_other_names_of_models_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        ModelReference.parse(text, field="spec.model")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Digits"}, "spec.name"),
        ({"name": "a" * 64}, "spec.name"),
        ({"name": "a-"}, "spec.name"),
        ({"name": "a_b"}, "spec.name"),
        ({"image": ""}, "spec.image"),
        ({"replica_count": 0}, "spec.replica_count"),
        ({"replica_count": 33}, "spec.replica_count"),
        ({"model": "digits"}, "spec.model"),
    ],
)
def test_a_field_out_of_bounds_is_named(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        a_deployment_spec(**changes).check()
    assert refusal.value.detail["field"] == field


def test_a_deployment_serves_while_a_replica_answers() -> None:
    served = a_deployment().observed(ready_count=1, at=NOW)
    assert served is not None
    deployment, fact = served
    assert (deployment.state, fact.what) == (DeploymentState.SERVING, "serving")
    assert deployment.observed(ready_count=2, at=NOW) is None

    prepared = deployment.observed(ready_count=0, at=NOW)
    assert prepared is not None
    assert prepared[1].what == "preparing"


def test_a_deployment_says_why_its_replicas_do_not_answer() -> None:
    deployment = a_deployment().unanswered(because="exit code 3")
    assert (deployment.reason, deployment.version) == ("no replica answers: exit code 3", 1)

    serving = a_deployment(state=DeploymentState.SERVING, reason="a replica answers")
    assert serving.unanswered(because="exit code 3") == serving


def test_a_deployment_on_its_way_out_follows_no_replica() -> None:
    asked = a_deployment().asked_to_delete(at=NOW)
    assert asked is not None
    deployment, fact = asked
    assert fact.what == "deleting"
    assert deployment.observed(ready_count=1, at=NOW) is None
    assert deployment.asked_to_delete(at=NOW) is None


def test_a_routing_entry_names_only_replicas_that_answer() -> None:
    replicas = [a_ready_replica("rep_2", address="h:2"), a_warming_replica(), a_ready_replica()]
    entry = a_deployment().rerouted().routing_entry(replicas)
    assert entry.generation == 1
    assert entry.endpoints == (
        ReplicaEndpoint(ReplicaId("rep_1"), "127.0.0.1:9000"),
        ReplicaEndpoint(ReplicaId("rep_2"), "h:2"),
    )
    assert not entry.deleted


def test_a_deleted_deployment_has_no_endpoints_whatever_still_runs() -> None:
    asked = a_deployment().asked_to_delete(at=NOW)
    assert asked is not None
    entry = asked[0].routing_entry([a_ready_replica()])
    assert (entry.endpoints, entry.deleted) == ((), True)


def test_restarts_wait_longer_each_time_up_to_a_minute() -> None:
    assert [restart_delay(n).total_seconds() for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert restart_delay(10**6).total_seconds() == 60


def test_an_ended_replica_goes_back_in_line_when_its_delay_is_over() -> None:
    ended = a_warming_replica().ended(reason="exit code 1", at=NOW)
    assert ended.restart_at == later(1)
    assert steps(a_deployment(), [ended], at=later(0.9)) == []

    [back] = steps(a_deployment(), [ended], at=later(1))
    assert (back.state, back.restart_count, back.restart_at) == (ReplicaState.QUEUED, 1, None)

    again = back.placed(AttemptId("att_2"), NODE).ended(reason="exit code 1", at=later(3))
    assert again.restart_at == later(5)
    assert again.attempt_number == 2


def test_a_replica_that_served_for_long_starts_over_with_short_delays() -> None:
    tired = a_replica(failure_count=6).placed(AttemptId("att_1"), NODE).ready("h:1", at=NOW)
    assert tired.ended(reason="exit code 1", at=later(61)).restart_at == later(62)
    assert tired.ended(reason="exit code 1", at=later(10)).restart_at == later(70)


def test_a_replica_that_stopped_answering_leaves_the_routing_entry() -> None:
    unready = a_ready_replica().unready(reason="no answer")
    assert (unready.state, unready.address) == (ReplicaState.WARMING, None)


def test_deletion_stops_what_answers_only_after_routes_have_settled() -> None:
    asked = a_deployment().asked_to_delete(at=NOW)
    assert asked is not None
    ended = a_warming_replica().ended(reason="exit code 1", at=NOW)
    replicas = [a_replica(), a_warming_replica(), a_ready_replica(), ended]

    at_once = steps(asked[0], replicas, at=later(1))
    assert [each.state for each in at_once] == [
        ReplicaState.ENDED,
        ReplicaState.STOPPING,
        ReplicaState.ENDED,
    ]
    assert all(each.restart_at is None for each in at_once)

    [stopping] = steps(asked[0], [a_ready_replica()], at=later(2))
    assert (stopping.state, stopping.address) == (ReplicaState.STOPPING, None)
    assert steps(asked[0], [stopping, *at_once], at=later(9)) == []


def test_a_stopped_replica_does_not_come_back() -> None:
    stopping = a_ready_replica().asked_to_stop(reason="deleted", at=NOW)
    assert stopping.ended(reason="exit code 0", at=NOW).restart_at is None


def test_suspension_stops_what_runs_and_lets_requests_end_first() -> None:
    tenant = Tenant(ACME, version=2, is_suspended=True, reason="unpaid", changed_at=NOW)
    replicas = [a_replica(), a_warming_replica(), a_ready_replica()]

    [warming] = steps(a_deployment(), replicas, at=later(1), tenant=tenant)
    assert (warming.state, warming.reason) == (
        ReplicaState.STOPPING,
        "the tenant is suspended: unpaid",
    )
    stopped = steps(a_deployment(), replicas, at=later(2), tenant=tenant)
    assert [each.state for each in stopped] == [ReplicaState.STOPPING] * 2


def test_what_a_suspension_has_stopped_is_back_in_line_at_once() -> None:
    stopping = a_ready_replica().asked_to_stop(reason="the tenant is suspended", at=NOW)
    ended = stopping.ended(reason="exit code 0", at=later(3), comes_back=True)
    assert (ended.state, ended.address) == (ReplicaState.ENDED, None)
    [back] = steps(a_deployment(), [ended], at=later(3))
    assert (back.state, back.failure_count) == (ReplicaState.QUEUED, 0)
    assert "the tenant is suspended" in back.reason


DRAINING = {NODE: NOW}


def test_a_replica_leaves_the_routing_table_before_a_drain_stops_it() -> None:
    ready = a_ready_replica()
    [leaving] = steps(a_deployment(), [ready], at=later(1), draining=DRAINING)
    assert (leaving.state, leaving.address) == (ReplicaState.WARMING, None)
    assert not leaving.is_warming  # so that a server that still answers is not routed to again
    assert steps(a_deployment(), [leaving], at=later(2), draining=DRAINING) == []

    [stopping] = steps(a_deployment(), [leaving], at=later(3), draining=DRAINING)
    assert (stopping.state, stopping.reason) == (ReplicaState.STOPPING, "node-1 is drained")
    ended = stopping.ended(reason="exit code 0", at=later(4), comes_back=True)
    [queued] = steps(a_deployment(), [ended], at=later(4), draining=DRAINING)
    assert (queued.state, queued.leaving_at) == (ReplicaState.QUEUED, None)
    assert queued.failure_count == 0


def test_a_replica_that_was_leaving_is_stopped_though_its_node_is_open_again() -> None:
    leaving = a_ready_replica().leaving(reason="node-1 is drained", at=NOW)
    [stopping] = steps(a_deployment(), [leaving], at=later(2))
    assert stopping.state is ReplicaState.STOPPING


def test_a_replica_that_does_not_answer_yet_is_stopped_at_once() -> None:
    [stopping] = steps(a_deployment(), [a_warming_replica()], at=later(1), draining=DRAINING)
    assert stopping.state is ReplicaState.STOPPING


def test_one_replica_of_a_deployment_leaves_at_a_time() -> None:
    first, second = a_ready_replica("rep_1"), a_ready_replica("rep_2")
    [leaving] = steps(a_deployment(), [first, second], at=later(1), draining=DRAINING)
    assert leaving.id == first.id
    assert steps(a_deployment(), [leaving, second], at=later(2), draining=DRAINING) == []

    elsewhere = replace(first, node_id=NodeId("node-2"))
    [leaving] = steps(a_deployment(), [elsewhere, second], at=later(9), draining=DRAINING)
    assert leaving.id == second.id


def test_a_drain_does_not_wait_for_ever_for_a_replica_that_never_answers() -> None:
    waiting, ready = a_replica(), a_ready_replica("rep_2")
    late = NOW + OTHERS_AWAITED_MAX
    assert steps(a_deployment(), [waiting, ready], at=later(100), draining=DRAINING) == []
    [leaving] = steps(a_deployment(), [waiting, ready], at=late, draining=DRAINING)
    assert leaving.id == ready.id


def test_patience_begins_anew_with_each_replica_that_leaves() -> None:
    """Else a drain of two minutes would take down all that are left at once."""
    moved = a_ready_replica("rep_1").leaving(reason="node-1 is drained", at=later(119))
    moved = moved.asked_to_stop(reason="node-1 is drained", at=later(121))
    waiting = moved.ended(reason="exit code 0", at=later(122), comes_back=True).requeued()
    ready = a_ready_replica("rep_2")
    assert steps(a_deployment(), [waiting, ready], at=later(125), draining=DRAINING) == []
    late = later(121) + OTHERS_AWAITED_MAX
    [leaving] = steps(a_deployment(), [waiting, ready], at=late, draining=DRAINING)
    assert leaving.id == ready.id


def test_what_has_just_left_is_not_cut_off_by_a_deletion_or_a_suspension() -> None:
    leaving = a_ready_replica().leaving(reason="node-1 is drained", at=later(10))
    deleted = a_deployment().asked_to_delete(at=later(10))
    assert deleted is not None
    suspended = Tenant(ACME, is_suspended=True, changed_at=NOW, reason="unpaid")
    for deployment, tenant in ((deleted[0], None), (a_deployment(), suspended)):
        assert steps(deployment, [leaving], at=later(11), tenant=tenant) == []
        [stopping] = steps(deployment, [leaving], at=later(12), tenant=tenant)
        assert stopping.state is ReplicaState.STOPPING


def test_a_suspension_goes_before_a_drain() -> None:
    tenant = Tenant(ACME, is_suspended=True, changed_at=NOW, reason="unpaid")
    [stopping] = steps(
        a_deployment(), [a_ready_replica()], at=later(3), tenant=tenant, draining=DRAINING
    )
    assert "suspended" in stopping.reason


def test_replicas_on_other_nodes_stay() -> None:
    assert (
        steps(a_deployment(), [a_ready_replica()], at=later(9), draining={NodeId("node-2"): NOW})
        == []
    )
