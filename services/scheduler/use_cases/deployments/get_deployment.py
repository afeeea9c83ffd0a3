"""Show one deployment."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.scheduler.use_cases.deployments.shown import ShownDeployment
from services.scheduler.use_cases.ports import Tenants, UnitOfWork


@dataclass(frozen=True, slots=True)
class GetDeployment:
    """Show one of the tenant's deployments; raises NotFound, for another tenant's too."""

    unit_of_work: UnitOfWork
    tenants: Tenants

    async def __call__(self, tenant: TenantId, id_or_name: str) -> ShownDeployment:
        """Return the deployment; a deleted one is found by its id only."""
        async with self.unit_of_work(tenant) as tx:
            deployment = await tx.deployments.find(id_or_name)
            replicas = await tx.deployments.replicas([deployment.id])
        known = self.tenants.get(tenant)
        shown = [known.replica_shown(replica) for replica in replicas[deployment.id]]
        return ShownDeployment(deployment, shown)
