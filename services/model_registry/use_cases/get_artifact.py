"""Read stored bytes."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.model_registry.domain.artifact import Digest
from services.model_registry.use_cases.ports import Blobs, UnitOfWork


@dataclass(frozen=True, slots=True)
class GetArtifact:
    """Stream bytes that the tenant has stored."""

    unit_of_work: UnitOfWork
    blobs: Blobs

    async def __call__(self, tenant: TenantId, digest: Digest) -> AsyncGenerator[bytes, None]:
        """Return the stream; no transaction is open while it flows. Raises NotFound."""
        async with self.unit_of_work.reading(tenant) as tx:
            artifact = await tx.artifacts.get(digest)
        return self.blobs.read(artifact)
