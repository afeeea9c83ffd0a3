"""Store bytes."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.chassis.errors import Unavailable
from services.chassis.tenancy import TenantId
from services.model_registry.domain.artifact import Artifact, Digest
from services.model_registry.use_cases.ports import Blobs, UnitOfWork


@dataclass(frozen=True, slots=True)
class PutArtifact:
    """Store a stream's bytes for a tenant.

    The bytes are durable before the row says so. A crash in between leaves bytes that nobody owns:
    unreachable, and taken over as they are by the next upload of the same digest.
    """

    unit_of_work: UnitOfWork
    blobs: Blobs

    async def __call__(
        self,
        tenant: TenantId,
        chunks: AsyncIterator[bytes],
        *,
        digest: Digest | None,
        size_bytes: int | None,
    ) -> Artifact:
        """Return what was stored.

        Raises InvalidArgument, PayloadTooLarge, Unavailable when the last tenant that had these
        bytes was purged between their arrival and the row.
        """
        artifact = await self.blobs.put(chunks, digest=digest, size_bytes=size_bytes)
        async with self.unit_of_work(tenant) as tx:
            await tx.artifacts.add(artifact)
            if not await self.blobs.has(artifact.digest):
                raise Unavailable("artifact store")
        return artifact
