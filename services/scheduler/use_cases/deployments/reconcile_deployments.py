"""Bring deployments one step closer to what is wanted."""

from dataclasses import dataclass
from datetime import timedelta

from services.scheduler.domain.deployments.next_steps import next_steps
from services.scheduler.domain.identities import DeploymentId
from services.scheduler.use_cases.deployments.change_replica import (
    change_replica,
    follow_replicas,
)
from services.scheduler.use_cases.one_by_one import one_by_one
from services.scheduler.use_cases.ports import Lease, Tenants, UnitOfWork


@dataclass(frozen=True, slots=True)
class ReconcileDeployments:
    """Put ended replicas back in line when their delay is over; carry out what makes others end.

    That are deletions, suspensions and drains of nodes. Who could act late: a replica that was
    placed before the suspension was heard of; it is found at the next pass, since this looks at
    what is.
    """

    unit_of_work: UnitOfWork
    tenants: Tenants
    deployments_per_pass_max: int
    routes_settle: timedelta
    """From a deployment's or replica's leaving the routing table to the stop of what left."""

    async def __call__(self, lease: Lease) -> int:
        """Run one pass; returns how many deployments were looked at."""
        # 1. Find those that something is to be done for.
        async with self.unit_of_work.system(because="reconciling spans tenants") as tx:
            due = await tx.deployments.due(
                at=tx.now,
                suspended=list(self.tenants.suspended()),
                limit=self.deployments_per_pass_max,
            )
        # 2. One step for each, in a transaction of its own.
        await one_by_one(due, lambda due_id: self._step(lease, due_id))
        return len(due)

    async def _step(self, lease: Lease, deployment_id: DeploymentId) -> None:
        async with self.unit_of_work.system(because="reconciling any tenant's deployment") as tx:
            await tx.hold(lease)
            deployment = await tx.deployments.get(deployment_id)
            replicas = await tx.replicas.of_deployment(deployment_id)
            steps = next_steps(
                deployment,
                replicas,
                tenant=self.tenants.get(deployment.tenant),
                draining=await tx.nodes.draining(),
                at=tx.now,
                routes_settle=self.routes_settle,
            )
            for replica in steps:
                await change_replica(tx, replica)
            if not steps:
                await follow_replicas(tx, deployment, replicas)
