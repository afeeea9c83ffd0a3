"""The registry over gRPC: models by unary calls, artifacts by streams both ways."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import grpc.aio
from modelyard.registry.v1 import artifact_service_pb2 as artifacts_pb
from modelyard.registry.v1 import model_service_pb2 as models_pb
from modelyard.registry.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from modelyard.registry.v1.model_service_pb2_grpc import ModelServiceStub

from services.chassis.errors import ModelyardError
from services.chassis.rpc.client import Edge, idempotent

CHUNK_BYTES_MAX: Final = 256 * 1024
_PUT: Final = "modelyard.registry.v1.ArtifactService/PutArtifact"
_GET: Final = "modelyard.registry.v1.ArtifactService/GetArtifact"


@dataclass(frozen=True, slots=True)
class GrpcModels:
    """ModelService."""

    stub: ModelServiceStub
    edge: Edge
    timeout: timedelta

    async def create(
        self, request: models_pb.CreateModelRequest, *, key: str | None
    ) -> models_pb.CreateModelResponse:
        """Make a model."""
        return await self.edge.call(
            self.stub.CreateModel,
            request,
            timeout=self.timeout,
            idempotent=key is not None,
            metadata=idempotent(key),
        )

    async def get(self, request: models_pb.GetModelRequest) -> models_pb.GetModelResponse:
        """Show a model."""
        return await self.edge.call(
            self.stub.GetModel, request, timeout=self.timeout, idempotent=True
        )

    async def list(self, request: models_pb.ListModelsRequest) -> models_pb.ListModelsResponse:
        """Show a page of models."""
        return await self.edge.call(
            self.stub.ListModels,
            request,
            timeout=self.timeout,
            idempotent=True,
        )

    async def create_version(
        self, request: models_pb.CreateVersionRequest, *, key: str | None
    ) -> models_pb.CreateVersionResponse:
        """Make a version from stored files."""
        return await self.edge.call(
            self.stub.CreateVersion,
            request,
            timeout=self.timeout,
            idempotent=key is not None,
            metadata=idempotent(key),
        )

    async def get_version(
        self, request: models_pb.GetVersionRequest
    ) -> models_pb.GetVersionResponse:
        """Show a version."""
        return await self.edge.call(
            self.stub.GetVersion,
            request,
            timeout=self.timeout,
            idempotent=True,
        )

    async def list_versions(
        self, request: models_pb.ListVersionsRequest
    ) -> models_pb.ListVersionsResponse:
        """Show a page of versions."""
        return await self.edge.call(
            self.stub.ListVersions,
            request,
            timeout=self.timeout,
            idempotent=True,
        )

    async def set_alias(self, request: models_pb.SetAliasRequest) -> models_pb.SetAliasResponse:
        """Point an alias; pointing again changes nothing."""
        return await self.edge.call(
            self.stub.SetAlias, request, timeout=self.timeout, idempotent=True
        )

    async def delete_alias(
        self, request: models_pb.DeleteAliasRequest
    ) -> models_pb.DeleteAliasResponse:
        """Remove an alias; removing again changes nothing."""
        return await self.edge.call(
            self.stub.DeleteAlias, request, timeout=self.timeout, idempotent=True
        )

    async def set_tags(
        self, request: models_pb.SetModelTagsRequest
    ) -> models_pb.SetModelTagsResponse:
        """Replace a model's tags."""
        return await self.edge.call(
            self.stub.SetModelTags,
            request,
            timeout=self.timeout,
            idempotent=True,
        )


@dataclass(frozen=True, slots=True)
class GrpcArtifacts:
    """ArtifactService."""

    stub: ArtifactServiceStub
    edge: Edge
    timeout: timedelta
    stream_timeout: timedelta

    async def put(
        self, chunks: AsyncIterator[bytes], *, digest: str, size_bytes: int
    ) -> artifacts_pb.PutArtifactResponse:
        """Store bytes. Not repeated: the body can be read once."""
        parts = _Parts(chunks, digest=digest, size_bytes=size_bytes)
        async with self.edge.guard(_PUT):
            try:
                return await self.stub.PutArtifact(
                    parts.stream(), timeout=self.stream_timeout.total_seconds()
                )
            except (grpc.aio.AioRpcError, asyncio.CancelledError):
                # gRPC cancels a call whose requests fail, and keeps the reason to itself.
                if parts.failure is not None:
                    raise parts.failure from None
                raise

    async def stat(self, digest: str) -> artifacts_pb.StatArtifactResponse:
        """Tell a stored artifact's size."""
        return await self.edge.call(
            self.stub.StatArtifact,
            artifacts_pb.StatArtifactRequest(digest=digest),
            timeout=self.timeout,
            idempotent=True,
        )

    async def get(self, digest: str) -> AsyncIterator[bytes]:
        """Stream stored bytes."""
        async with self.edge.guard(_GET):
            call = self.stub.GetArtifact(
                artifacts_pb.GetArtifactRequest(digest=digest),
                timeout=self.stream_timeout.total_seconds(),
            )
            async for part in call:
                yield part.chunk


@dataclass(slots=True)
class _Parts:
    """An upload's header and chunks; remembers why they ended early."""

    chunks: AsyncIterator[bytes]
    digest: str
    size_bytes: int
    failure: ModelyardError | None = None

    async def stream(self) -> AsyncIterator[artifacts_pb.PutArtifactRequest]:
        """Yield the requests."""
        yield artifacts_pb.PutArtifactRequest(
            header=artifacts_pb.ArtifactHeader(digest=self.digest, size_bytes=self.size_bytes)
        )
        try:
            async for chunk in self.chunks:
                for start in range(0, len(chunk), CHUNK_BYTES_MAX):
                    piece = chunk[start : start + CHUNK_BYTES_MAX]
                    yield artifacts_pb.PutArtifactRequest(chunk=piece)
        except ModelyardError as error:
            self.failure = error
            raise
