"""Delete what a node keeps of purged tenants."""

from dataclasses import dataclass

from services.scheduler.use_cases.attempts.ports import NodeFiles
from services.scheduler.use_cases.ports import Tenants


@dataclass(frozen=True, slots=True)
class PurgeNodeFiles:
    """Delete a node's files of tenants that are PURGED: bundles, inputs and models.

    Each tenant has its own files, also of the same bytes, so nobody else misses them.

    Who could act late: an attempt that was prepared with an older picture, and holds or fetches a
    file. What refuses it: nothing; the next pass deletes it, once it is not held any more.
    """

    files: NodeFiles
    tenants: Tenants
    files_per_pass_max: int

    async def __call__(self) -> int:
        """Run one pass; return how many files were deleted. Raises Unavailable."""
        purged = self.tenants.purged()
        return await self.files.purge(purged, limit=self.files_per_pass_max) if purged else 0
