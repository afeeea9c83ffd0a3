"""The registry in this process: PostgreSQL, gRPC and files are real; and those who call it."""

import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from modelyard.common.v1.files_pb2 import FileEntry
from modelyard.registry.v1 import artifact_service_pb2, model_events_pb2, model_pb2
from modelyard.registry.v1 import model_service_pb2 as pb
from modelyard.registry.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from modelyard.registry.v1.model_service_pb2_grpc import ModelServiceStub
from modelyard.scheduler.v1 import job_events_pb2
from pydantic import SecretStr

from services.chassis.clock import SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.events.envelope import NewEvent, record_of
from services.chassis.events.ports import Record
from services.chassis.ids import TimeOrderedIds
from services.chassis.rpc.client import Edge, idempotent, open_channel
from services.chassis.rpc.context import acting_as
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.rpc.server import serve
from services.chassis.settings import GrpcClientSettings, GrpcServerSettings, PostgresSettings
from services.chassis.tenancy import Principal, TenantId
from services.model_registry.adapters.blob_store import FileBlobStore, open_blob_store
from services.model_registry.adapters.postgres.tables import chassis
from services.model_registry.adapters.postgres.unit_of_work import RegistryUnitOfWork
from services.model_registry.bootstrap import (
    CALLERS,
    REQUIRED_SCOPES,
    RPC_SERVICES,
    SERVICE,
    App,
    Ports,
    databases,
    wire,
)
from services.model_registry.entrypoints.consumers.job_lifecycle import TOPIC as JOBS
from services.model_registry.entrypoints.protobuf import event_of

ACME: Final = TenantId("acme")
GLOBEX: Final = TenantId("globex")
SCOPES: Final = frozenset({"models:read", "models:write", "artifacts:read", "artifacts:write"})
CLOCK: Final = SystemClock()
IDS: Final = TimeOrderedIds(CLOCK)
BLOB_BYTES_MAX: Final = 4 * 1024 * 1024
CHUNK_BYTES: Final = 256 * 1024
_TIMEOUT: Final = timedelta(seconds=20)


def digest_of(data: bytes) -> str:
    """Return the digest of these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def a_file(path: str = "model.bin", data: bytes = b"weights") -> FileEntry:
    """Return a file of a manifest."""
    return FileEntry(path=path, size_bytes=len(data), digest=digest_of(data))


def identity() -> tuple[bytes, bytes]:
    """Return a fresh pair of keys, private and public."""
    key = Ed25519PrivateKey.generate()
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


class Client:
    """Calls the registry for one tenant, as the gateway does."""

    def __init__(
        self,
        channel: Any,
        *,
        tenant: TenantId = ACME,
        scopes: Iterable[str] = SCOPES,
        subject: str = "key:tests",
    ) -> None:
        self.models = ModelServiceStub(channel)
        self.artifacts = ArtifactServiceStub(channel)
        self.channel = channel
        self._principal = Principal(tenant, subject, frozenset(scopes))
        self._edge = Edge.to(SERVICE)

    def of(self, tenant: TenantId, *, scopes: Iterable[str] = SCOPES) -> "Client":
        """Return a client of another tenant, or with other scopes."""
        return Client(self.channel, tenant=tenant, scopes=scopes)

    def named(self, subject: str, *, scopes: Iterable[str]) -> "Client":
        """Return a client for another principal of the tenant."""
        return Client(self.channel, subject=subject, scopes=scopes)

    async def call(self, method: Any, request: Any, *, key: str | None = None) -> Any:
        """Make a unary call. Raises ModelyardError."""
        with acting_as(self._principal):
            return await self._edge.call(
                method, request, timeout=_TIMEOUT, idempotent=False, metadata=idempotent(key)
            )

    async def create_model(
        self,
        name: str = "digits",
        *,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> model_pb2.Model:
        """Make a model."""
        request = pb.CreateModelRequest(name=name, description=description, tags=tags)
        answer: pb.CreateModelResponse = await self.call(self.models.CreateModel, request, key=key)
        return answer.model

    async def get_model(self, name: str = "digits") -> model_pb2.Model:
        """Show a model."""
        answer: pb.GetModelResponse = await self.call(
            self.models.GetModel, pb.GetModelRequest(name=name)
        )
        return answer.model

    async def create_version(
        self,
        name: str = "digits",
        *,
        files: Sequence[FileEntry] | None = None,
        tags: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> model_pb2.ModelVersion:
        """Make a version; by default of one small file, which is stored first."""
        if files is None:
            await self.put(b"weights")
            files = [a_file()]
        request = pb.CreateVersionRequest(model_name=name, files=files, tags=tags)
        answer: pb.CreateVersionResponse = await self.call(
            self.models.CreateVersion, request, key=key
        )
        return answer.version

    async def get_version(
        self, name: str = "digits", *, version: int | None = None, alias: str | None = None
    ) -> model_pb2.ModelVersion:
        """Resolve a version."""
        request = pb.GetVersionRequest(model_name=name)
        if version is not None:
            request.version = version
        if alias is not None:
            request.alias = alias
        answer: pb.GetVersionResponse = await self.call(self.models.GetVersion, request)
        return answer.version

    async def set_alias(
        self, alias: str, version: int, *, name: str = "digits", if_revision: int = 0
    ) -> model_pb2.Model:
        """Point an alias at a version."""
        request = pb.SetAliasRequest(
            model_name=name, alias=alias, version=version, if_revision=if_revision
        )
        answer: pb.SetAliasResponse = await self.call(self.models.SetAlias, request)
        return answer.model

    async def delete_alias(self, alias: str, *, if_revision: int = 0) -> model_pb2.Model:
        """Remove an alias of the model `digits`."""
        request = pb.DeleteAliasRequest(model_name="digits", alias=alias, if_revision=if_revision)
        answer: pb.DeleteAliasResponse = await self.call(self.models.DeleteAlias, request)
        return answer.model

    async def put(
        self, data: bytes, *, digest: str = "", size_bytes: int = -1
    ) -> artifact_service_pb2.PutArtifactResponse:
        """Store bytes. Raises ModelyardError."""
        header = artifact_service_pb2.ArtifactHeader(digest=digest, size_bytes=size_bytes)
        chunks = [
            artifact_service_pb2.PutArtifactRequest(chunk=data[start : start + CHUNK_BYTES])
            for start in range(0, len(data), CHUNK_BYTES)
        ]
        return await self.send([artifact_service_pb2.PutArtifactRequest(header=header), *chunks])

    async def send(
        self, requests: Iterable[artifact_service_pb2.PutArtifactRequest]
    ) -> artifact_service_pb2.PutArtifactResponse:
        """Send a stream as it is. Raises ModelyardError."""

        async def stream() -> AsyncIterator[artifact_service_pb2.PutArtifactRequest]:
            for request in requests:
                yield request

        with acting_as(self._principal):
            async with self._edge.guard():
                return await self.artifacts.PutArtifact(stream(), timeout=_TIMEOUT.total_seconds())
        raise AssertionError("guard() passes errors on")

    async def get(self, digest: str) -> list[bytes]:
        """Read stored bytes, in the chunks in which they come. Raises ModelyardError."""
        request = artifact_service_pb2.GetArtifactRequest(digest=digest)
        with acting_as(self._principal):
            async with self._edge.guard():
                stream = self.artifacts.GetArtifact(request, timeout=_TIMEOUT.total_seconds())
                return [message.chunk async for message in stream]
        raise AssertionError("guard() passes errors on")

    async def stat(self, digest: str) -> int:
        """Return the size of stored bytes. Raises ModelyardError."""
        answer: artifact_service_pb2.StatArtifactResponse = await self.call(
            self.artifacts.StatArtifact, artifact_service_pb2.StatArtifactRequest(digest=digest)
        )
        return answer.size_bytes


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry."""

    client: Client
    node: Client
    """Calls as the scheduler does, whose nodes run jobs."""
    app: App
    database: PostgresUnitOfWork
    unit_of_work: RegistryUnitOfWork
    blobs: FileBlobStore
    root: Path

    async def events(self) -> list[tuple[str, model_events_pb2.ModelChanged]]:
        """Return type and data of what was published, in the order of commits."""
        outbox = chassis.outbox
        async with self.database.system(because="a test looks") as tx:
            rows = await tx.connection.execute(
                sa.select(outbox.c.type, outbox.c.payload).order_by(outbox.c.seq)
            )
            return [
                (row.type, model_events_pb2.ModelChanged.FromString(row.payload)) for row in rows
            ]

    async def traceparents(self) -> list[str]:
        """Return the trace contexts of what was published."""
        outbox = chassis.outbox
        async with self.database.system(because="a test looks") as tx:
            rows = await tx.connection.execute(sa.select(outbox.c.traceparent))
            return list(rows.scalars())

    def stored_files(self) -> list[Path]:
        """Return all files below the blob store's root."""
        return [path for path in self.root.rglob("*") if path.is_file()]


@asynccontextmanager
async def running_registry(root: Path, url: str) -> AsyncIterator[Registry]:
    """Run the registry, without its loops, until the block ends."""
    private, public = identity()
    of_nodes, public_of_nodes = identity()
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            open_engine(PostgresSettings(url=SecretStr(url)), application_name=SERVICE)
        )
        blobs = await stack.enter_async_context(
            open_blob_store(root, blob_bytes_max=BLOB_BYTES_MAX, io_threads=2)
        )
        database, reading = databases(engine, CLOCK, IDS)
        unit_of_work = RegistryUnitOfWork(database, reading=reading, event_of=event_of)
        app = wire(Ports(CLOCK, IDS, unit_of_work, blobs))
        server = await stack.enter_async_context(
            serve(
                GrpcServerSettings(port=0),
                register=app.register,
                services=RPC_SERVICES,
                verifier=TokenVerifier(
                    SERVICE, {"api-gateway": public, "scheduler": public_of_nodes}, CLOCK
                ),
                required_scopes=REQUIRED_SCOPES,
                callers=CALLERS,
            )
        )
        settings = GrpcClientSettings(address=f"127.0.0.1:{server.port}")
        channel, channel_of_nodes = [
            await stack.enter_async_context(open_channel(settings, callee=SERVICE, signer=signer))
            for signer in (
                TokenSigner("api-gateway", private, CLOCK),
                TokenSigner("scheduler", of_nodes, CLOCK),
            )
        ]
        yield Registry(
            Client(channel), Client(channel_of_nodes), app, database, unit_of_work, blobs, root
        )


def an_output(
    *files: FileEntry, name: str = "model", register_as: str = "digits"
) -> job_events_pb2.OutputManifest:
    """Return what a job says of one of its outputs."""
    return job_events_pb2.OutputManifest(
        name=name, register_as=register_as, files=files or [a_file()]
    )


def job_succeeded(
    *outputs: job_events_pb2.OutputManifest,
    job_id: str = "job_1",
    event_id: str | None = None,
    tenant: TenantId = ACME,
    topic: str = JOBS,
    traceparent: str | None = None,
    source_digest: str = digest_of(b"source"),
    metrics: Mapping[str, float] | None = None,
) -> Record:
    """Return the record with which the scheduler tells of a job's success."""
    message = job_events_pb2.JobTransitioned(
        job_id=job_id,
        tenant=tenant,
        name="train",
        version=5,
        outputs=outputs or [an_output()],
        source_digest=source_digest,
        metrics=metrics,
    )
    return record_of(
        NewEvent(
            topic=topic,
            key=job_id,
            type="modelyard.job.succeeded.v1",
            subject=job_id,
            tenant=tenant,
            data=message.SerializeToString(),
            dataschema=message.DESCRIPTOR.full_name,
            traceparent=traceparent,
        ),
        event_id=event_id or IDS.new("evt"),
        source="/scheduler",
        time=CLOCK.now(),
    )
