"""Show where all deployments answer."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.scheduler.domain.deployments.deployment import RoutingEntry
from services.scheduler.domain.identities import DeploymentId
from services.scheduler.use_cases.paging import Page, PageRequest
from services.scheduler.use_cases.ports import UnitOfWork

DELETED_SHOWN_FOR: Final = timedelta(days=1)
"""How long a deleted deployment's entry is still told, so that every reader hears of its end."""


@dataclass(frozen=True, slots=True)
class ListRoutes:
    """Show the routing entries of all tenants, for the gateway's first fill."""

    unit_of_work: UnitOfWork

    async def __call__(self, page: PageRequest) -> Page[RoutingEntry]:
        """Return a page, by deployment id."""
        async with self.unit_of_work.system(because="the gateway routes for all tenants") as tx:
            entries = await tx.deployments.routing_entries(
                after=DeploymentId(page.after) if page.after else None,
                deleted_since=tx.now - DELETED_SHOWN_FOR,
                limit=page.size + 1,
            )
        return Page.of(entries, page.size, lambda entry: entry.deployment_id)
