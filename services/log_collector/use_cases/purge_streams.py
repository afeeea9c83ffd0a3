"""Delete the output of purged tenants."""

from dataclasses import dataclass

from loguru import logger

from services.chassis.errors import Unavailable
from services.chassis.tenancy import PurgedTenants
from services.log_collector.use_cases.ports import LogStore, UnitOfWork


@dataclass(frozen=True, slots=True)
class PurgeStreams:
    """Delete streams and stored output of tenants that are PURGED, on this node.

    A stream that is being collected stays until it is complete. Who could act late: an event of an
    attempt that makes its stream again, or a pass that was cut off between output and row. What
    refuses it: this looks at what is, again and again; a row goes after its output, so that what
    is left on the disk is found.
    """

    unit_of_work: UnitOfWork
    store: LogStore
    purged: PurgedTenants
    node_id: str | None
    streams_per_pass_max: int

    async def __call__(self) -> int:
        """Run one pass; return how many streams were deleted. Raises Unavailable."""
        # 1. While nobody is purged nothing is asked.
        purged = self.purged.names()
        if not purged:
            return 0
        # 2. Find what nobody writes to.
        async with self.unit_of_work.system(because="a purge finds any tenant's streams") as tx:
            attempt_ids = await tx.streams.not_collected(
                purged, self.node_id, limit=self.streams_per_pass_max
            )
        # 3. Their output; what can't be deleted holds up none of the others.
        deleted = [attempt_id for attempt_id in attempt_ids if await self._is_deleted(attempt_id)]
        # 4. The rows of those that still nobody writes to.
        async with self.unit_of_work.system(because="a purge deletes any tenant's streams") as tx:
            return await tx.streams.delete(deleted)

    async def _is_deleted(self, attempt_id: str) -> bool:
        try:
            await self.store.delete(attempt_id)
        except Unavailable as error:
            logger.warning("purged output not deleted", attempt_id=attempt_id, error=error.message)
            return False
        return True
