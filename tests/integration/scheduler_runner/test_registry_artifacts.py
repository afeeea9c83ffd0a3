"""Artifacts over real gRPC, against a small registry."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from modelyard.registry.v1 import artifact_service_pb2 as pb
from modelyard.registry.v1.artifact_service_pb2_grpc import (
    ArtifactServiceServicer,
    add_ArtifactServiceServicer_to_server,
)
from typing_extensions import override

from services.chassis.clock import SystemClock
from services.chassis.errors import FailedPrecondition, NotFound, PayloadTooLarge, Unavailable
from services.chassis.rpc.callers import Grant
from services.chassis.rpc.client import Edge, open_channel
from services.chassis.rpc.context import Context, principal
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.rpc.server import serve
from services.chassis.settings import GrpcClientSettings, GrpcServerSettings
from services.chassis.tenancy import Principal, TenantId
from services.scheduler.adapters.registry_artifacts.artifacts import RegistryArtifacts
from services.scheduler.adapters.registry_artifacts.node_cache import NodeCache
from services.scheduler.domain.identities import AttemptId

SERVICE: Final = "modelyard.registry.v1.ArtifactService"
SCOPES: Final = {
    f"/{SERVICE}/PutArtifact": "artifacts:write",
    f"/{SERVICE}/GetArtifact": "artifacts:read",
    f"/{SERVICE}/StatArtifact": "artifacts:read",
}
ONE, OTHER = TenantId("one"), TenantId("other")
ATTEMPT = AttemptId("att_1")
CACHE_BYTES_MAX = 4 << 20


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Registry(ArtifactServiceServicer):
    """Keeps bytes by tenant and digest."""

    stored: dict[tuple[TenantId, str], bytes] = field(default_factory=dict)
    put_count: int = 0
    stored_by: Principal | None = None
    read_by: set[Principal] = field(default_factory=set)
    is_refusing: bool = False

    def _find(self, digest: str) -> bytes:
        self.read_by.add(principal())
        data = self.stored.get((principal().tenant, digest))
        if data is None:
            raise NotFound("artifact", digest)
        return data

    @override
    async def PutArtifact(
        self, request_iterator: AsyncIterator[pb.PutArtifactRequest], context: Context
    ) -> pb.PutArtifactResponse:
        self.put_count += 1
        self.stored_by = principal()
        data = b""
        async for request in request_iterator:
            if self.is_refusing:
                raise FailedPrecondition("no more artifacts")
            data += request.chunk
        self.stored[principal().tenant, digest_of(data)] = data
        return pb.PutArtifactResponse(digest=digest_of(data), size_bytes=len(data))

    @override
    async def GetArtifact(
        self, request: pb.GetArtifactRequest, context: Context
    ) -> AsyncIterator[pb.GetArtifactResponse]:
        data = self._find(request.digest)
        for begin in range(0, len(data), 256 << 10):
            yield pb.GetArtifactResponse(chunk=data[begin : begin + (256 << 10)])

    @override
    async def StatArtifact(
        self, request: pb.StatArtifactRequest, context: Context
    ) -> pb.StatArtifactResponse:
        data = self._find(request.digest)
        return pb.StatArtifactResponse(digest=request.digest, size_bytes=len(data))


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
async def artifacts(registry: Registry, tmp_path: Path) -> AsyncIterator[RegistryArtifacts]:
    clock, key = SystemClock(), Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    async with serve(
        GrpcServerSettings(port=0),
        register=lambda server: add_ArtifactServiceServicer_to_server(registry, server),
        services=(SERVICE,),
        verifier=TokenVerifier("model-registry", {"scheduler": public}, clock),
        required_scopes=SCOPES,
        callers={
            "scheduler": [Grant(frozenset({"scheduler", "attempt"}), frozenset(SCOPES.values()))]
        },
    ) as server:
        settings = GrpcClientSettings(address=f"127.0.0.1:{server.port}")
        signer = TokenSigner("scheduler", private, clock)
        async with open_channel(settings, callee="model-registry", signer=signer) as channel:
            yield over(channel, tmp_path)


def over(channel: grpc.aio.Channel, folder: Path) -> RegistryArtifacts:
    cache = NodeCache(folder / "cache", bytes_max=CACHE_BYTES_MAX)
    return RegistryArtifacts(
        channel, Edge.to("registry"), cache, transfer_timeout=timedelta(seconds=10)
    )


def _file(folder: Path, data: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
async def test_bytes_come_back_as_they_went(
    artifacts: RegistryArtifacts, registry: Registry, tmp_path: Path, size: int
) -> None:
    data = b"\xff" * size
    stored = await artifacts.put(ONE, _file(tmp_path, data), attempt_id=ATTEMPT)

    assert (stored.digest, stored.size_bytes) == (digest_of(data), size)
    assert registry.stored == {(ONE, digest_of(data)): data}
    async with artifacts.held(ONE, [stored.digest]) as files:
        assert await asyncio.to_thread(Path(files[stored.digest]).read_bytes) == data


async def test_bytes_are_sent_once(
    artifacts: RegistryArtifacts, registry: Registry, tmp_path: Path
) -> None:
    first = await artifacts.put(ONE, _file(tmp_path, b"data"), attempt_id=ATTEMPT)

    assert await artifacts.put(ONE, _file(tmp_path, b"data"), attempt_id=ATTEMPT) == first
    assert registry.put_count == 1


async def test_bytes_are_stored_as_the_attempt_and_read_as_the_scheduler(
    artifacts: RegistryArtifacts, registry: Registry, tmp_path: Path
) -> None:
    stored = await artifacts.put(ONE, _file(tmp_path, b"data"), attempt_id=ATTEMPT)
    async with artifacts.held(ONE, [stored.digest]):
        pass

    assert registry.stored_by == Principal(ONE, "attempt:att_1", frozenset({"artifacts:write"}))
    assert registry.read_by == {Principal(ONE, "scheduler", frozenset({"artifacts:read"}))}


async def test_bytes_of_another_tenant_are_not_found(
    artifacts: RegistryArtifacts, tmp_path: Path
) -> None:
    stored = await artifacts.put(ONE, _file(tmp_path, b"data"), attempt_id=ATTEMPT)
    async with artifacts.held(ONE, [stored.digest]):
        with pytest.raises(NotFound) as missing:
            async with artifacts.held(OTHER, [stored.digest]):
                pass
    assert missing.value.detail == {"kind": "artifact", "id": stored.digest}


async def test_refusal_in_the_middle_of_an_upload_is_told(
    artifacts: RegistryArtifacts, registry: Registry, tmp_path: Path
) -> None:
    registry.is_refusing = True

    with pytest.raises(FailedPrecondition, match="no more artifacts"):
        await artifacts.put(ONE, _file(tmp_path, b"x" * (8 << 20)), attempt_id=ATTEMPT)


async def test_artifact_is_refused_when_it_does_not_fit_on_the_node(
    artifacts: RegistryArtifacts, registry: Registry
) -> None:
    data = b"x" * (CACHE_BYTES_MAX + 1)
    registry.stored[ONE, digest_of(data)] = data

    with pytest.raises(PayloadTooLarge):
        async with artifacts.held(ONE, [digest_of(data)]):
            pass


async def test_registry_that_is_not_there_is_unavailable(
    artifacts: RegistryArtifacts, tmp_path: Path
) -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        absent = over(channel, tmp_path / "other")
        with pytest.raises(Unavailable):
            await absent.put(ONE, _file(tmp_path, b"data"), attempt_id=ATTEMPT)
        with pytest.raises(Unavailable):
            async with absent.held(ONE, [digest_of(b"data")]):
                pass
