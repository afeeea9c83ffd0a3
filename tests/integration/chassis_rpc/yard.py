"""A service on loopback whose handlers each test gives, and a client to it."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc.aio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from modelyard.logs.v1 import log_service_pb2 as logs_pb
from modelyard.logs.v1 import log_service_pb2_grpc as logs_grpc
from modelyard.registry.v1 import artifact_service_pb2 as artifacts_pb
from modelyard.registry.v1 import artifact_service_pb2_grpc as artifacts_grpc
from modelyard.scheduler.v1 import job_pb2, job_service_pb2_grpc
from modelyard.scheduler.v1 import job_service_pb2 as pb

from services.chassis.clock import SystemClock
from services.chassis.errors import Unimplemented
from services.chassis.rpc.callers import Callers, Grant
from services.chassis.rpc.client import Edge, open_channel
from services.chassis.rpc.context import Context
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.rpc.server import RpcServer, serve
from services.chassis.settings import GrpcClientSettings, GrpcServerSettings
from services.chassis.tenancy import Principal, TenantId

JOBS = "modelyard.scheduler.v1.JobService"
LOGS = "modelyard.logs.v1.LogService"
ARTIFACTS = "modelyard.registry.v1.ArtifactService"
SCOPES = {
    **{
        f"/{JOBS}/{method}": "jobs:read"
        for method in (
            "SubmitJob",
            "CheckJob",
            "GetJob",
            "ExplainJob",
            "ListJobs",
            "ListAttempts",
            "GetStats",
        )
    },
    f"/{JOBS}/CancelJob": "jobs:write",
    **{f"/{LOGS}/{method}": "logs:read" for method in ("ReadLogs", "FollowLogs")},
    **{
        f"/{ARTIFACTS}/{method}": "artifacts:write"
        for method in ("PutArtifact", "GetArtifact", "StatArtifact")
    },
}
CALLERS: Callers = {
    "api-gateway": [Grant(frozenset({"user"}), frozenset(SCOPES.values()))],
}
CALLEE = "scheduler"
SOON = timedelta(seconds=5)
ANNA = Principal(
    tenant=TenantId("acme"),
    subject="user:anna",
    scopes=frozenset({"jobs:read", "logs:read", "artifacts:write"}),
)
A_JOB = pb.GetJobResponse(job=job_pb2.Job(id="job_1"))

Unary = Callable[[Any, Context], Awaitable[Any]]
Stream = Callable[[Any, Context], AsyncIterator[Any]]


@dataclass(frozen=True, slots=True)
class Keys:
    """A service's key pair, PEM."""

    private: bytes
    public: bytes

    @staticmethod
    def new() -> "Keys":
        key = Ed25519PrivateKey.generate()
        return Keys(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        )


GATEWAY = Keys.new()


def a_signer(keys: Keys = GATEWAY, *, service: str = "api-gateway") -> TokenSigner:
    return TokenSigner(service, keys.private, SystemClock())


def a_verifier(service: str = CALLEE) -> TokenVerifier:
    return TokenVerifier(service, {"api-gateway": GATEWAY.public}, SystemClock())


async def a_job(request: Any, context: Context) -> pb.GetJobResponse:
    return A_JOB


async def a_log(request: Any, context: Context) -> AsyncIterator[logs_pb.FollowLogsResponse]:
    yield logs_pb.FollowLogsResponse(complete=True)


async def a_store(requests: Any, context: Context) -> artifacts_pb.PutArtifactResponse:
    size = 0
    async for request in requests:
        size += len(request.chunk)
    return artifacts_pb.PutArtifactResponse(size_bytes=size)


@dataclass
class Handlers:
    """Answers by what the test put in."""

    get_job: Unary = a_job
    follow: Stream = a_log
    put: Unary = a_store
    seen: list[Any] = field(default_factory=list)

    async def GetJob(self, request: Any, context: Context) -> Any:
        self.seen.append(request)
        return await self.get_job(request, context)

    async def CancelJob(self, request: Any, context: Context) -> Any:
        return pb.CancelJobResponse()

    async def FollowLogs(self, request: Any, context: Context) -> AsyncIterator[Any]:
        async for answer in self.follow(request, context):
            yield answer

    async def PutArtifact(self, requests: Any, context: Context) -> Any:
        return await self.put(requests, context)

    async def not_offered(self, request: Any, context: Context) -> Any:
        raise Unimplemented("not offered here")

    SubmitJob = CheckJob = ExplainJob = ListJobs = ListAttempts = GetStats = not_offered
    ReadLogs = GetArtifact = StatArtifact = not_offered

    def register(self, server: grpc.aio.Server) -> None:
        servicer: Any = self
        job_service_pb2_grpc.add_JobServiceServicer_to_server(servicer, server)
        logs_grpc.add_LogServiceServicer_to_server(servicer, server)
        artifacts_grpc.add_ArtifactServiceServicer_to_server(servicer, server)


@dataclass(slots=True)
class Client:
    """A channel with its stubs and edge."""

    channel: grpc.aio.Channel
    edge: Edge

    @property
    def jobs(self) -> Any:
        return job_service_pb2_grpc.JobServiceStub(self.channel)

    @property
    def logs(self) -> Any:
        return logs_grpc.LogServiceStub(self.channel)

    @property
    def artifacts(self) -> Any:
        return artifacts_grpc.ArtifactServiceStub(self.channel)

    async def follow(self, *, timeout_s: float | None = 20) -> AsyncGenerator[Any, None]:
        async with self.edge.guard():
            async for answer in self.logs.FollowLogs(
                logs_pb.FollowLogsRequest(), timeout=timeout_s
            ):
                yield answer

    async def put(self, requests: AsyncIterator[artifacts_pb.PutArtifactRequest]) -> Any:
        async with self.edge.guard():
            return await self.artifacts.PutArtifact(requests, timeout=5)

    async def get_job(self, *, timeout: timedelta = SOON, idempotent: bool = False) -> Any:
        return await self.edge.call(
            self.jobs.GetJob,
            pb.GetJobRequest(job_id="job_1"),
            timeout=timeout,
            idempotent=idempotent,
        )


@dataclass(slots=True)
class Yard:
    """Starts servers and clients that end with the test."""

    stack: AsyncExitStack

    async def serving(self, handlers: Handlers, **settings: Any) -> RpcServer:
        return await self.stack.enter_async_context(serving(handlers, **settings))

    async def client(
        self,
        *ports: int,
        callee: str = CALLEE,
        signer: TokenSigner | None = None,
        edge: Edge | None = None,
    ) -> Client:
        return await self.stack.enter_async_context(
            client_to(ports, callee=callee, signer=signer or a_signer(), edge=edge)
        )


@asynccontextmanager
async def serving(
    handlers: Handlers,
    *,
    verifier: TokenVerifier | None = None,
    callers: Callers = CALLERS,
    **settings: Any,
) -> AsyncIterator[RpcServer]:
    async with serve(
        GrpcServerSettings(**{"port": 0, **settings}),
        register=handlers.register,
        services=(JOBS, LOGS, ARTIFACTS),
        verifier=verifier or a_verifier(),
        required_scopes=SCOPES,
        callers=callers,
    ) as server:
        yield server


@asynccontextmanager
async def client_to(
    ports: Iterable[int], *, callee: str, signer: TokenSigner, edge: Edge | None = None
) -> AsyncIterator[Client]:
    addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
    settings = GrpcClientSettings(address=f"ipv4:{addresses}")
    async with open_channel(settings, callee=callee, signer=signer) as channel:
        yield Client(channel, edge or Edge.to(callee))
