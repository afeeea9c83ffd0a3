"""Say why a deployment's replicas wait, and about when the first of them starts."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.causes import Cause
from services.scheduler.domain.scheduling.explanation import (
    DeploymentExplanation,
    Reason,
    replica_by_itself,
)
from services.scheduler.domain.scheduling.line import Head, Shape
from services.scheduler.use_cases.ports import Tenants, UnitOfWork
from services.scheduler.use_cases.scheduling.reason import LookAtLine


@dataclass(frozen=True, slots=True)
class ExplainDeployment:
    """Say the one thing that holds the first of a deployment's replicas that wait.

    By what a cycle would see now, as `ExplainJob`; raises NotFound, for another tenant's too.
    """

    unit_of_work: UnitOfWork
    tenants: Tenants
    look: LookAtLine

    async def __call__(self, tenant: TenantId, id_or_name: str) -> DeploymentExplanation:
        """Return the explanation; a deleted one is found by its id only."""
        known = self.tenants.get(tenant)
        # 1. What holds it by itself, whatever line and nodes are like.
        async with self.unit_of_work(tenant) as tx:
            deployment = await tx.deployments.find(id_or_name)
            replicas = await tx.deployments.replicas([deployment.id])
            waiting = [each for each in replicas[deployment.id] if each.is_waiting]
            if not (waiting and deployment.is_wanted):
                return DeploymentExplanation(
                    deployment, 0, Reason(Cause.NOT_IN_LINE, deployment.reason), tx.now
                )
            resources = deployment.spec.resources
            booked = await tx.jobs.booked() if known.plan.running_max else Resources()
            reason = replica_by_itself(waiting, known, resources=resources, booked=booked)
            first_id, now = await tx.deployments.first_in_line(deployment.id), tx.now
        # 2. Else what does in line.
        if reason is None:
            shape = Shape(OwnerKind.REPLICA, tenant, 0, resources, run_max=None)
            head = Head(first_id or waiting[0].id, 0, shape)
            async with self.unit_of_work.reading(because="all stand in one line") as reading:
                seen = await self.look.see(reading, head, alike_count=0, at=now)
            reason = seen.reason
        return DeploymentExplanation(deployment, len(waiting), reason, now)
