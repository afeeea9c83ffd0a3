"""What is to be done for a deployment now.

Pure: it compares what is wanted with what is and returns the replicas to change; the use case
`reconcile_deployments` applies them.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from services.scheduler.domain.deployments.deployment import Deployment
from services.scheduler.domain.deployments.replica import Replica, ReplicaState
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.tenants.tenant import Tenant

OTHERS_AWAITED_MAX: Final = timedelta(minutes=2)
"""So long a replica stays on a node that is drained because not all others of its deployment
answer, from the drain's beginning or the last one's leaving on."""


def next_steps(
    deployment: Deployment,
    replicas: Sequence[Replica],
    *,
    tenant: Tenant,
    draining: Mapping[NodeId, datetime],
    at: datetime,
    routes_settle: timedelta,
) -> list[Replica]:
    """Return replicas that move: restarts that are due, or what is stopped next.

    A READY replica is stopped only `routes_settle` after it left the routing table, its deployment
    did, or its tenant was suspended, so that gateways have stopped sending to it. What was stopped
    by a suspension comes back in line, where it is passed over until its tenant is resumed; what
    left a node that is drained comes back in line, too. `draining` says since when nodes are.
    """
    if deployment.is_wanted:
        due = [each.requeued() for each in replicas if each.restart_at and each.restart_at <= at]
        if tenant.is_suspended:
            return due + _suspended(replicas, tenant, at=at, routes_settle=routes_settle)
        return due + _moved_off(replicas, draining, at=at, routes_settle=routes_settle)
    assert deployment.deleting_at is not None, "an unwanted deployment knows since when"
    settled = at - deployment.deleting_at >= routes_settle
    return [
        each.asked_to_stop(reason="the deployment is being deleted", at=at)
        for each in replicas
        if _is_to_stop(each)
        and (settled or each.state is not ReplicaState.READY)
        and not _has_just_left(each, at=at, routes_settle=routes_settle)
    ]


def _suspended(
    replicas: Sequence[Replica], tenant: Tenant, *, at: datetime, routes_settle: timedelta
) -> list[Replica]:
    settled = at - tenant.changed_at >= routes_settle
    return [
        each.asked_to_stop(reason=tenant.why_waiting, at=at)
        for each in replicas
        if (each.state is ReplicaState.WARMING or (settled and each.state is ReplicaState.READY))
        and not _has_just_left(each, at=at, routes_settle=routes_settle)
    ]


def _moved_off(
    replicas: Sequence[Replica],
    draining: Mapping[NodeId, datetime],
    *,
    at: datetime,
    routes_settle: timedelta,
) -> list[Replica]:
    """Stop what has left the routing table; let one after another leave it."""
    moved = [
        each.asked_to_stop(reason=each.reason, at=at)
        for each in replicas
        if each.state is ReplicaState.WARMING
        and each.leaving_at is not None
        and not _has_just_left(each, at=at, routes_settle=routes_settle)
    ]
    for each in replicas:
        if each.node_id is None or each.node_id not in draining:
            continue
        reason = f"{each.node_id} is drained"
        if each.is_warming:
            moved.append(each.asked_to_stop(reason=reason, at=at))
        elif each.state is ReplicaState.READY:
            others = [other for other in replicas if other is not each]
            left_last = [other.stop_requested_at or other.leaving_at for other in others]
            waits_since = max([draining[each.node_id], *filter(None, left_last)])
            is_patient = at - waits_since < OTHERS_AWAITED_MAX
            if is_patient and any(other.state is not ReplicaState.READY for other in others):
                continue
            return [*moved, each.leaving(reason=reason, at=at)]
    return moved


def _has_just_left(replica: Replica, *, at: datetime, routes_settle: timedelta) -> bool:
    """Tell whether somebody may still send to a replica that left the routing table alone."""
    return replica.leaving_at is not None and at - replica.leaving_at < routes_settle


def _is_to_stop(replica: Replica) -> bool:
    if replica.state is ReplicaState.ENDED:
        return replica.restart_at is not None  # it would come back
    return replica.state is not ReplicaState.STOPPING
