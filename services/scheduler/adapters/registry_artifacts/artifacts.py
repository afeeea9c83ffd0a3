"""The registry's artifact store, as a node's runner uses it: `ArtifactStore`.

Owns: streaming bytes in and out, in the tenant's name. Leaves keeping them to `node_cache`,
repeating a failed transfer to who drives the attempt: it may wait for minutes. Always holds: bytes
are read as the scheduler, which may not write; they are stored as the attempt that left them, which
may do nothing else (ADR-0010). So nothing is signed in an attempt's name but by its driver.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path, PurePath
from typing import Final

import grpc.aio
from modelyard.registry.v1.artifact_service_pb2 import (
    ArtifactHeader,
    GetArtifactRequest,
    PutArtifactRequest,
    StatArtifactRequest,
)
from modelyard.registry.v1.artifact_service_pb2_grpc import ArtifactServiceStub

from services.chassis.errors import Internal, NotFound
from services.chassis.rpc.client import Edge
from services.chassis.rpc.context import acting_as
from services.chassis.tenancy import Principal, TenantId
from services.scheduler.adapters.node_failures import node_failures
from services.scheduler.adapters.registry_artifacts.node_cache import (
    BoundedFile,
    NodeCache,
    digest_of,
)
from services.scheduler.domain.identities import AttemptId
from services.scheduler.use_cases.attempts.ports import StoredFile

CHUNK_BYTES_MAX: Final = 256 * 1024
_GET: Final = "modelyard.registry.v1.ArtifactService/GetArtifact"
_PUT: Final = "modelyard.registry.v1.ArtifactService/PutArtifact"
_SUBJECT: Final = "scheduler"
_READING: Final = frozenset({"artifacts:read"})
_STORING: Final = frozenset({"artifacts:write"})
_STAT_TIMEOUT: Final = timedelta(seconds=5)


class RegistryArtifacts:
    """Fetches into the node's cache and stores files, each within `transfer_timeout`."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        edge: Edge,
        cache: NodeCache,
        *,
        transfer_timeout: timedelta,
    ) -> None:
        self._stub = ArtifactServiceStub(channel)
        self._edge = edge
        self._cache = cache
        self._timeout_s = transfer_timeout.total_seconds()

    @asynccontextmanager
    async def held(
        self, tenant: TenantId, digests: Sequence[str]
    ) -> AsyncIterator[Mapping[str, PurePath]]:
        """Give these bytes as files of the node for as long as the block lasts."""
        async with AsyncExitStack() as stack:
            files: dict[str, PurePath] = {}
            for digest in digests:

                async def download(file: BoundedFile, digest: str = digest) -> None:
                    await self._download(tenant, digest, file)

                files[digest] = await stack.enter_async_context(
                    self._cache.held(tenant, digest, download)
                )
            yield files

    async def put(self, tenant: TenantId, file: PurePath, *, attempt_id: AttemptId) -> StoredFile:
        """Store a file's bytes as the attempt, unless the registry has them."""
        path = Path(file)
        with node_failures():
            stored = await asyncio.to_thread(_described, path)
        with acting_as(Principal(tenant, _SUBJECT, _READING)):
            is_stored = await self._is_stored(stored.digest)
        if not is_stored:
            with acting_as(Principal(tenant, f"attempt:{attempt_id}", _STORING)):
                await self._upload(path, stored)
        return stored

    async def _download(self, tenant: TenantId, digest: str, file: BoundedFile) -> None:
        request = GetArtifactRequest(digest=digest)
        with acting_as(Principal(tenant, _SUBJECT, _READING)):
            async with self._edge.guard(_GET):
                async for message in self._stub.GetArtifact(request, timeout=self._timeout_s):
                    file.write(message.chunk)

    async def _is_stored(self, digest: str) -> bool:
        try:
            await self._edge.call(
                self._stub.StatArtifact,
                StatArtifactRequest(digest=digest),
                timeout=_STAT_TIMEOUT,
                idempotent=True,
            )
        except NotFound:
            return False
        return True

    async def _upload(self, path: Path, described: StoredFile) -> None:
        async with self._edge.guard(_PUT):
            stored = await self._stub.PutArtifact(_parts(path, described), timeout=self._timeout_s)
        if stored.digest != described.digest:
            raise Internal(f"registry stored {stored.digest} for {described.digest}")


def _described(path: Path) -> StoredFile:
    digest = digest_of(path)
    if digest is None:
        raise NotFound("file", path.name)
    return StoredFile(digest, path.stat().st_size)


async def _parts(path: Path, described: StoredFile) -> AsyncIterator[PutArtifactRequest]:
    header = ArtifactHeader(digest=described.digest, size_bytes=described.size_bytes)
    yield PutArtifactRequest(header=header)
    with path.open("rb") as file:  # it was hashed just now: this reads the page cache
        while chunk := file.read(CHUNK_BYTES_MAX):
            yield PutArtifactRequest(chunk=chunk)
