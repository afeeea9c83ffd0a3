"""`ArtifactService`: bytes, streamed both ways."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from modelyard.registry.v1 import artifact_service_pb2 as pb
from modelyard.registry.v1.artifact_service_pb2_grpc import ArtifactServiceServicer
from typing_extensions import override

from services.chassis.errors import InvalidArgument, PayloadTooLarge
from services.chassis.rpc.context import Context, principal
from services.model_registry.domain.artifact import checked_digest
from services.model_registry.use_cases.get_artifact import GetArtifact
from services.model_registry.use_cases.put_artifact import PutArtifact
from services.model_registry.use_cases.stat_artifact import StatArtifact

SERVICE: Final = pb.DESCRIPTOR.services_by_name["ArtifactService"].full_name

SCOPES: Final = {
    f"/{SERVICE}/PutArtifact": "artifacts:write",
    f"/{SERVICE}/GetArtifact": "artifacts:read",
    f"/{SERVICE}/StatArtifact": "artifacts:read",
}

CHUNK_BYTES_MAX: Final = 256 * 1024
_SIZE_UNKNOWN: Final = -1


@dataclass(frozen=True)
class ArtifactServicer(ArtifactServiceServicer):
    """Translates, calls one use case, translates."""

    put_artifact: PutArtifact
    get_artifact: GetArtifact
    stat_artifact: StatArtifact

    @override
    async def PutArtifact(
        self, request_iterator: AsyncIterator[pb.PutArtifactRequest], context: Context
    ) -> pb.PutArtifactResponse:
        """Store a stream's bytes."""
        header = await _header(request_iterator)
        artifact = await self.put_artifact(
            principal().tenant,
            _chunks(request_iterator),
            digest=checked_digest(header.digest) if header.digest else None,
            size_bytes=None if header.size_bytes == _SIZE_UNKNOWN else header.size_bytes,
        )
        return pb.PutArtifactResponse(digest=artifact.digest, size_bytes=artifact.size_bytes)

    @override
    async def GetArtifact(
        self, request: pb.GetArtifactRequest, context: Context
    ) -> AsyncIterator[pb.GetArtifactResponse]:
        """Stream stored bytes."""
        stream = await self.get_artifact(principal().tenant, checked_digest(request.digest))
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                yield pb.GetArtifactResponse(chunk=chunk)

    @override
    async def StatArtifact(
        self, request: pb.StatArtifactRequest, context: Context
    ) -> pb.StatArtifactResponse:
        """Tell whether a digest is stored, and its size."""
        artifact = await self.stat_artifact(principal().tenant, checked_digest(request.digest))
        return pb.StatArtifactResponse(digest=artifact.digest, size_bytes=artifact.size_bytes)


async def _header(requests: AsyncIterator[pb.PutArtifactRequest]) -> pb.ArtifactHeader:
    first = await anext(requests, pb.PutArtifactRequest())
    if first.WhichOneof("part") != "header":
        raise InvalidArgument("header", "must come first")
    if first.header.size_bytes < _SIZE_UNKNOWN:
        raise InvalidArgument("header.size_bytes", "must be a size, or -1 when it is unknown")
    return first.header


async def _chunks(requests: AsyncIterator[pb.PutArtifactRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidArgument("chunk", "must follow the header")
        if len(request.chunk) > CHUNK_BYTES_MAX:
            raise PayloadTooLarge("chunk", bytes_max=CHUNK_BYTES_MAX)
        yield request.chunk
