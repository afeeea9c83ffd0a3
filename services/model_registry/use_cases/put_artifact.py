"""Store bytes."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.model_registry.domain.artifact import Artifact, Digest
from services.model_registry.use_cases.ports import Blobs, UnitOfWork


@dataclass(frozen=True, slots=True)
class PutArtifact:
    """Store a stream's bytes for a tenant.

    The bytes are durable before the row says so. A crash in between leaves bytes that nobody owns:
    unreachable, and taken over as they are by the next upload of the same digest.

    Who could act late: a purge that deletes the same bytes of another tenant, the last that had
    them, before it can see the row. What refuses it: they are kept until after the row, and stored
    again; from the row on nobody deletes them.
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
        """Return what was stored. Raises InvalidArgument, PayloadTooLarge, Unavailable."""
        async with self.blobs.received(chunks, digest=digest, size_bytes=size_bytes) as blob:
            await blob.keep()
            async with self.unit_of_work(tenant) as tx:
                await tx.artifacts.add(blob.artifact)
            await blob.keep()
        return blob.artifact
