"""Deployments as callers see them: their replicas in line know what they wait for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from services.scheduler.domain.deployments.deployment import Deployment
from services.scheduler.domain.deployments.replica import Replica, ReplicaState
from services.scheduler.domain.fleet.reach import FleetDoors
from services.scheduler.domain.tenants.tenant import Tenant
from services.scheduler.use_cases.ports import Transaction

_UNASKED = FleetDoors(node_count=0)


@dataclass(frozen=True, slots=True)
class ShownDeployment:
    """A deployment with its replicas, by place."""

    deployment: Deployment
    replicas: Sequence[Replica]


async def shown(
    tx: Transaction, deployments: Sequence[Deployment], *, of: Tenant, node_silence_max: timedelta
) -> Sequence[ShownDeployment]:
    """Return deployments that this transaction has read with their replicas: a question a size."""
    replicas = await tx.deployments.replicas([each.id for each in deployments])
    sizes = {
        each.spec.resources
        for each in deployments
        if any(replica.state is ReplicaState.QUEUED for replica in replicas[each.id])
    }
    doors = {
        size: await tx.fleet.doors_for(size, tenant=of.id, silence_max=node_silence_max)
        for size in sizes
    }
    return [
        ShownDeployment(
            each,
            [
                of.replica_shown(replica, doors=doors.get(each.spec.resources, _UNASKED))
                for replica in replicas[each.id]
            ],
        )
        for each in deployments
    ]
