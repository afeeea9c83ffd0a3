"""Show one deployment."""

from dataclasses import dataclass
from datetime import timedelta

from services.chassis.tenancy import TenantId
from services.scheduler.use_cases.deployments.shown import ShownDeployment, shown
from services.scheduler.use_cases.ports import Tenants, UnitOfWork


@dataclass(frozen=True, slots=True)
class GetDeployment:
    """Show one of the tenant's deployments; raises NotFound, for another tenant's too."""

    unit_of_work: UnitOfWork
    tenants: Tenants
    node_silence_max: timedelta

    async def __call__(self, tenant: TenantId, id_or_name: str) -> ShownDeployment:
        """Return the deployment; a deleted one is found by its id only."""
        known = self.tenants.get(tenant)
        async with self.unit_of_work(tenant) as tx:
            deployment = await tx.deployments.find(id_or_name)
            [found] = await shown(
                tx, [deployment], of=known, node_silence_max=self.node_silence_max
            )
        return found
