"""`/v1/artifacts`: bytes by their digest, streamed both ways."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from services.api_gateway.entrypoints.rest.access import needs, noun_router
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.chassis.errors import InvalidArgument, PayloadTooLarge

DigestPath = Annotated[str, Path(pattern=r"^sha256:[0-9a-f]{64}$")]


class Artifact(BaseModel):
    """Stored bytes."""

    digest: str
    size_bytes: int


def artifacts_router(edge: Gateway) -> APIRouter:
    """Return the routes on artifacts."""
    router = noun_router("/v1/artifacts", tag="artifacts")
    burst = edge.burst_limiter.limit(edge.policies.burst)

    @router.post(
        "",
        dependencies=[needs("artifacts:write")],
        status_code=201,
        response_model=Artifact,
        openapi_extra={
            "requestBody": {
                "required": False,
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
                },
            }
        },
    )
    @burst
    async def put_artifact(
        request: Request,
        digest: Annotated[str, Query(pattern=r"^(sha256:[0-9a-f]{64})?$")] = "",
    ) -> Artifact:
        """Store the body, which may be empty; with `digest`, only if it is that."""
        stored = await gateway(request).artifacts.put(
            _bounded(request.stream(), edge.policies.artifact_bytes_max),
            digest=digest,
            size_bytes=_announced_size(request, edge),
        )
        return Artifact(digest=stored.digest, size_bytes=stored.size_bytes)

    @router.get(
        "/{digest}",
        dependencies=[needs("artifacts:read")],
        response_class=StreamingResponse,
        responses={
            200: {
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
                }
            }
        },
    )
    @burst
    async def get_artifact(request: Request, digest: DigestPath) -> StreamingResponse:
        """Return stored bytes."""
        artifacts = gateway(request).artifacts
        found = await artifacts.stat(digest)
        return StreamingResponse(
            artifacts.get(digest),
            media_type="application/octet-stream",
            headers={"Content-Length": str(found.size_bytes), "ETag": f'"{digest}"'},
        )

    return router


async def _bounded(chunks: AsyncIterator[bytes], bytes_max: int) -> AsyncIterator[bytes]:
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received > bytes_max:
            raise PayloadTooLarge("body", bytes_max=bytes_max)
        yield chunk


def _announced_size(request: Request, edge: Gateway) -> int:
    announced = request.headers.get("content-length")
    if announced is None:
        return -1
    if not announced.isascii() or not announced.isdigit():
        raise InvalidArgument("Content-Length", "must be a number of bytes")
    size = int(announced)
    if size > edge.policies.artifact_bytes_max:
        raise PayloadTooLarge("body", bytes_max=edge.policies.artifact_bytes_max)
    return size
