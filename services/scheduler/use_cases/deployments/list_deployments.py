"""Show a tenant's deployments."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import DeploymentId
from services.scheduler.use_cases.deployments.shown import ShownDeployment
from services.scheduler.use_cases.paging import Page, PageRequest
from services.scheduler.use_cases.ports import Tenants, UnitOfWork


@dataclass(frozen=True, slots=True)
class ListDeployments:
    """Show a tenant's deployments without deleted ones, newest first, a page at a time."""

    unit_of_work: UnitOfWork
    tenants: Tenants

    async def __call__(self, tenant: TenantId, page: PageRequest) -> Page[ShownDeployment]:
        """Return a page."""
        async with self.unit_of_work(tenant) as tx:
            found = await tx.deployments.newest(
                before=DeploymentId(page.after) if page.after else None, limit=page.size + 1
            )
            replicas = await tx.deployments.replicas([each.id for each in found])
        known = self.tenants.get(tenant)
        shown = [
            ShownDeployment(each, [known.replica_shown(replica) for replica in replicas[each.id]])
            for each in found
        ]
        return Page.of(shown, page.size, lambda each: each.deployment.id)
