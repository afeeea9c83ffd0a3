"""Show a tenant's deployments."""

from dataclasses import dataclass
from datetime import timedelta

from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import DeploymentId
from services.scheduler.use_cases.deployments.shown import ShownDeployment, shown
from services.scheduler.use_cases.paging import Page, PageRequest
from services.scheduler.use_cases.ports import Tenants, UnitOfWork


@dataclass(frozen=True, slots=True)
class ListDeployments:
    """Show a tenant's deployments without deleted ones, newest first, a page at a time."""

    unit_of_work: UnitOfWork
    tenants: Tenants
    node_silence_max: timedelta

    async def __call__(self, tenant: TenantId, page: PageRequest) -> Page[ShownDeployment]:
        """Return a page."""
        known = self.tenants.get(tenant)
        async with self.unit_of_work(tenant) as tx:
            deployments = await tx.deployments.newest(
                before=DeploymentId(page.after) if page.after else None, limit=page.size + 1
            )
            found = await shown(tx, deployments, of=known, node_silence_max=self.node_silence_max)
        return Page.of(found, page.size, lambda each: each.deployment.id)
