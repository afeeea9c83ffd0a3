"""What is to be done for a deployment now.

Pure: it compares what is wanted with what is and returns the replicas to change; the use case
`reconcile_deployments` applies them.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from services.scheduler.domain.deployments.deployment import Deployment
from services.scheduler.domain.deployments.replica import Replica, ReplicaState
from services.scheduler.domain.tenants.tenant import Tenant


def next_steps(
    deployment: Deployment,
    replicas: Sequence[Replica],
    *,
    tenant: Tenant,
    at: datetime,
    routes_settle: timedelta,
) -> list[Replica]:
    """Return replicas that move: restarts that are due, or what is stopped next.

    A READY replica is stopped only `routes_settle` after its deployment left the routing table, or
    its tenant was suspended, so that gateways have stopped sending to it. What was stopped by a
    suspension comes back in line, where it is passed over until its tenant is resumed.
    """
    if deployment.is_wanted:
        due = [each.requeued() for each in replicas if each.restart_at and each.restart_at <= at]
        return due + _suspended(replicas, tenant, at=at, routes_settle=routes_settle)
    assert deployment.deleting_at is not None, "an unwanted deployment knows since when"
    settled = at - deployment.deleting_at >= routes_settle
    return [
        each.asked_to_stop(reason="the deployment is being deleted", at=at)
        for each in replicas
        if _is_to_stop(each) and (settled or each.state is not ReplicaState.READY)
    ]


def _suspended(
    replicas: Sequence[Replica], tenant: Tenant, *, at: datetime, routes_settle: timedelta
) -> list[Replica]:
    if not tenant.is_suspended:
        return []
    settled = at - tenant.changed_at >= routes_settle
    return [
        each.asked_to_stop(reason=tenant.why_waiting, at=at)
        for each in replicas
        if each.state is ReplicaState.WARMING or (settled and each.state is ReplicaState.READY)
    ]


def _is_to_stop(replica: Replica) -> bool:
    if replica.state is ReplicaState.ENDED:
        return replica.restart_at is not None  # it would come back
    return replica.state is not ReplicaState.STOPPING
