"""Delete what purged tenants have stored."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from loguru import logger

from services.chassis.errors import ModelyardError
from services.chassis.purges import Round
from services.chassis.tenancy import PurgedTenants, TenantId
from services.model_registry.domain.artifact import Digest
from services.model_registry.use_cases.ports import Blobs, UnitOfWork


@dataclass(frozen=True, slots=True)
class PurgeTenants:
    """Delete models, versions, artifacts and answers of tenants that are PURGED.

    Bytes go when nobody else has stored them. Who could act late: an upload or a job's outputs that
    were under way; another tenant's upload of the same bytes. What refuses it: this looks at what
    is, again and again; who stores and who deletes a digest take turns (`Artifacts.add`), so this
    sees the row, or the upload stores its bytes again.
    """

    unit_of_work: UnitOfWork
    blobs: Blobs
    purged: PurgedTenants
    rows_per_pass_max: int
    round: Round = field(default_factory=Round)
    """Of artifacts, each of which is deleted by itself."""

    async def __call__(self) -> int:
        """Run one pass; return how many things were deleted. Raises Unavailable."""
        # 1. While nobody is purged nothing is asked.
        purged, limit = self.purged.names(), self.rows_per_pass_max
        if not purged:
            return 0
        # 2. Rows to which nothing outside belongs.
        async with self.unit_of_work.system(because="a purge deletes any tenant's models") as tx:
            count = await tx.leavings.delete_versions(purged, limit=limit)
            count += await tx.leavings.delete_models(purged, limit=limit)
            count += await tx.leavings.delete_answers(purged, limit=limit)
            found = await tx.leavings.digests(purged, offset=self.round.passed_over, limit=limit)
        # 3. Artifacts, one at a time: whoever stores the same bytes waits for it. What can't be
        # deleted holds up none of the others.
        digests = dict.fromkeys(found)
        kept = {digest for digest in digests if not await self._is_deleted(purged, digest)}
        failed = sum(digest in kept for digest in found)
        self.round.passed(found=len(found), failed=failed, limit=limit)
        return count + len(digests) - len(kept)

    async def _is_deleted(self, purged: Sequence[TenantId], digest: Digest) -> bool:
        try:
            async with self.unit_of_work.system(because="a purge deletes any tenant's bytes") as tx:
                if not await tx.leavings.delete_artifacts(purged, digest):
                    await self.blobs.delete(digest)
        except ModelyardError as error:
            logger.warning("purged artifact not deleted", digest=digest, error=error.message)
            return False
        return True
