"""Show a tenant's queues."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.scheduler.domain.queues.queue import Queue
from services.scheduler.use_cases.paging import Page, PageRequest
from services.scheduler.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class ListQueues:
    """Show by name the tenant's queues that are paused, or of which a job has not ended."""

    unit_of_work: UnitOfWork

    async def __call__(self, tenant: TenantId, page: PageRequest) -> Page[Queue]:
        """Return a page of queues."""
        async with self.unit_of_work(tenant) as tx:
            found = await tx.queues.page(after=page.after, limit=page.size + 1)
        return Page.of(found, page.size, lambda queue: queue.name)
