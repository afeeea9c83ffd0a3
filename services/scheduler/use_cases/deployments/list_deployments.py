"""Show a tenant's deployments."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import DeploymentId
from services.scheduler.use_cases.deployments.shown import ShownDeployment
from services.scheduler.use_cases.paging import Page, PageRequest
from services.scheduler.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class ListDeployments:
    """Show a tenant's deployments without deleted ones, newest first, a page at a time."""

    unit_of_work: UnitOfWork

    async def __call__(self, tenant: TenantId, page: PageRequest) -> Page[ShownDeployment]:
        """Return a page."""
        async with self.unit_of_work(tenant) as tx:
            found = await tx.deployments.newest(
                before=DeploymentId(page.after) if page.after else None, limit=page.size + 1
            )
            replicas = await tx.deployments.replicas([each.id for each in found])
        shown = [ShownDeployment(each, replicas[each.id]) for each in found]
        return Page.of(shown, page.size, lambda each: each.deployment.id)
