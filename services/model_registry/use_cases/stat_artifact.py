"""Tell whether bytes are stored."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.model_registry.domain.artifact import Artifact, Digest
from services.model_registry.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class StatArtifact:
    """Show the size of bytes that the tenant has stored."""

    unit_of_work: UnitOfWork

    async def __call__(self, tenant: TenantId, digest: Digest) -> Artifact:
        """Return the artifact. Raises NotFound."""
        async with self.unit_of_work.reading(tenant) as tx:
            return await tx.artifacts.get(digest)
