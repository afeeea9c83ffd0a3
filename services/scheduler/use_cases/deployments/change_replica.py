"""The one way to store a replica that moved.

Owns: that its deployment follows in the same commit: the routing entry whenever the set of replicas
that answer changes, the state, and the end of a deletion.
"""

from collections.abc import Sequence

from services.scheduler.domain.deployments.deployment import Deployment
from services.scheduler.domain.deployments.replica import Replica, ReplicaState
from services.scheduler.use_cases.ports import SystemTransaction


async def change_replica(tx: SystemTransaction, replica: Replica) -> None:
    """Store a replica that this transaction has read, and let its deployment follow.

    Locks the deployment and its replicas; raises Conflict as `save` does.
    """
    before = await tx.replicas.get(replica.id)
    await tx.replicas.save(replica)
    deployment = await tx.deployments.get(replica.deployment_id)
    replicas = await tx.replicas.of_deployment(deployment.id)
    if deployment.is_wanted and before.address != replica.address:
        deployment = deployment.rerouted()
        await tx.deployments.save(deployment)
        tx.emit(deployment.routing_entry(replicas))
    deployment = await follow_replicas(tx, deployment, replicas)
    if replica.is_ended and deployment.is_wanted:
        await tx.deployments.save(deployment.unanswered(because=replica.reason))


async def follow_replicas(
    tx: SystemTransaction, deployment: Deployment, replicas: Sequence[Replica]
) -> Deployment:
    """Let a deployment's state follow what is seen of its replicas; return what it is then."""
    ready_count = sum(replica.state is ReplicaState.READY for replica in replicas)
    moved = deployment.observed(ready_count=ready_count, at=tx.now)
    if deployment.is_deleting and all(replica.is_ended for replica in replicas):
        moved = deployment.deleted(at=tx.now)
    if moved is not None:
        deployment, fact = moved
        await tx.deployments.save(deployment)
        tx.emit(fact)
    return deployment
