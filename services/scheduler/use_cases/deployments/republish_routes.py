"""Tell the whole routing table again."""

from dataclasses import dataclass, replace

from services.scheduler.domain.identities import DeploymentId
from services.scheduler.use_cases.deployments.list_routes import DELETED_SHOWN_FOR
from services.scheduler.use_cases.ports import Lease, UnitOfWork


@dataclass(frozen=True, slots=True)
class RepublishRoutes:
    """Publish all current routing entries, so that a reader which lost some becomes whole again.

    The generations stay, so readers that are up to date learn nothing new. It belongs to no
    submission's trace.
    """

    unit_of_work: UnitOfWork
    batch_max: int

    async def __call__(self, lease: Lease) -> int:
        """Publish batch by batch; returns how many entries there were."""
        count, after = 0, None
        while True:
            batch, after = await self._publish(lease, after)
            count += batch
            if batch < self.batch_max:
                return count

    async def _publish(
        self, lease: Lease, after: DeploymentId | None
    ) -> tuple[int, DeploymentId | None]:
        async with self.unit_of_work.system(because="routes of all tenants") as tx:
            await tx.hold(lease)
            entries = await tx.deployments.routing_entries(
                after=after, deleted_since=tx.now - DELETED_SHOWN_FOR, limit=self.batch_max
            )
            for entry in entries:
                tx.emit(replace(entry, traceparent=None))
        return len(entries), entries[-1].deployment_id if entries else after
