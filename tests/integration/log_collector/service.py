"""The whole collector in this process: PostgreSQL, gRPC and files are real, the broker is given."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc.aio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.logs.v1 import log_service_pb2 as pb
from modelyard.logs.v1.log_service_pb2_grpc import LogServiceStub
from modelyard.scheduler.v1 import job_events_pb2
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.clock import SystemClock
from services.chassis.db.lease import PostgresLeases
from services.chassis.db.outbox import PostgresOutbox
from services.chassis.db.relay import Relay
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.events.consumer import EventConsumer
from services.chassis.events.envelope import NewEvent, record_of
from services.chassis.events.memory_broker import MemoryBroker
from services.chassis.ids import TimeOrderedIds
from services.chassis.rpc.client import Edge, open_channel
from services.chassis.rpc.context import acting_as
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.rpc.server import serve
from services.chassis.settings import (
    GrpcClientSettings,
    GrpcServerSettings,
    IdentitySettings,
    KafkaSettings,
    OperationsSettings,
    PostgresSettings,
)
from services.chassis.tenancy import Principal, TenantId
from services.log_collector.adapters.container_files.output import open_container_files
from services.log_collector.adapters.kafka_blocks import KafkaBlockPublisher
from services.log_collector.adapters.postgres.tables import chassis
from services.log_collector.adapters.postgres.unit_of_work import LogUnitOfWork
from services.log_collector.adapters.segments.store import open_segment_store
from services.log_collector.bootstrap import CALLERS, DEAD_LETTERS, SERVICE, Ports, wire
from services.log_collector.domain.log_stream import LogStream
from services.log_collector.entrypoints.consumers.attempt_lifecycle import TOPIC
from services.log_collector.entrypoints.grpc.logs import LOG_SERVICE, SCOPES
from services.log_collector.entrypoints.protobuf import event_of
from services.log_collector.settings import (
    CollectSettings,
    ReadSettings,
    Settings,
    StoreSettings,
)

ACME = TenantId("acme")
READER = frozenset({"logs:read"})
CLOCK = SystemClock()
FOLLOWERS_MAX = 8


def identity() -> tuple[TokenSigner, TokenVerifier]:
    """Return a signer for the gateway, and who trusts it."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return (
        TokenSigner("api-gateway", private, CLOCK),
        TokenVerifier(SERVICE, {"api-gateway": public}, CLOCK),
    )


@dataclass(frozen=True, slots=True)
class Client:
    """Calls the collector as the gateway does."""

    channel: grpc.aio.Channel

    async def read(
        self,
        request: pb.ReadLogsRequest,
        *,
        tenant: TenantId = ACME,
        scopes: Iterable[str] = READER,
    ) -> pb.ReadLogsResponse:
        """Read a page."""
        with acting_as(Principal(tenant, "key:tests", frozenset(scopes))):
            return await Edge.to("log-collector").call(
                LogServiceStub(self.channel).ReadLogs,
                request,
                timeout=timedelta(seconds=10),
                idempotent=True,
            )

    async def follow(
        self, request: pb.FollowLogsRequest, *, tenant: TenantId = ACME
    ) -> AsyncGenerator[pb.FollowLogsResponse, None]:
        """Follow until the server ends the stream."""
        with acting_as(Principal(tenant, "key:tests", READER)):
            async with Edge.to("log-collector").guard():
                async for page in LogServiceStub(self.channel).FollowLogs(request):
                    yield page


@dataclass(frozen=True, slots=True)
class Service:
    """A running collector, and the scheduler's part in its life."""

    client: Client
    broker: MemoryBroker
    containers_root: Path
    drain: Callable[[], None]

    async def tell(
        self,
        stream: LogStream,
        state: str,
        *,
        version: int,
        traceparent: str | None = None,
        is_end_seen: bool = True,
    ) -> None:
        """Publish an event of the stream's attempt, as the scheduler does."""
        event = attempt_event(
            stream, state, version=version, traceparent=traceparent, is_end_seen=is_end_seen
        )
        await self.send(event)

    async def send(self, event: NewEvent) -> None:
        """Publish an event."""
        record = record_of(
            event,
            event_id=TimeOrderedIds(CLOCK).new("evt"),
            source="/scheduler",
            time=CLOCK.now(),
        )
        async with self.broker.open_producer() as producer:
            await producer.send(record)

    def headers(self, topic: str) -> list[dict[str, str]]:
        """Return the headers of all records of a topic."""
        return [
            {name: (value or b"").decode() for name, value in record.headers}
            for record in self.broker.records(topic)
        ]


def attempt_event(
    stream: LogStream,
    state: str,
    *,
    version: int,
    traceparent: str | None = None,
    is_end_seen: bool = True,
) -> NewEvent:
    """Return the event that an attempt has reached a state."""
    at = Timestamp()
    at.FromDatetime(CLOCK.now())
    message = job_events_pb2.AttemptTransitioned(
        attempt_id=stream.attempt_id,
        tenant=stream.tenant,
        owner_kind=job_events_pb2.AttemptOwnerKind.Value(
            f"ATTEMPT_OWNER_KIND_{stream.owner_kind.upper()}"
        ),
        owner_id=stream.owner_id,
        number=stream.attempt_number,
        state=job_events_pb2.AttemptState.Value(f"ATTEMPT_STATE_{state.upper()}"),
        version=version,
        node_id=stream.node_id,
        container_name=stream.attempt_id,
        at=at,
        end_unseen=not is_end_seen,
    )
    if state in {"started", "exited"} and stream.location is not None:
        message.log_location.format = stream.location.format
        message.log_location.path = stream.location.path
    return NewEvent(
        topic=TOPIC,
        key=stream.attempt_id,
        type=f"modelyard.attempt.{state}.v1",
        subject=stream.attempt_id,
        tenant=stream.tenant,
        data=message.SerializeToString(),
        dataschema=message.DESCRIPTOR.full_name,
        traceparent=traceparent,
    )


def settings_of(root: Path, *, database_url: str, bootstrap_servers: str) -> Settings:
    """Return settings for a collector below a folder, on free ports."""
    (root / "containers").mkdir(exist_ok=True)
    return Settings(
        collect=CollectSettings(containers_root=root / "containers"),
        store=StoreSettings(root=root / "store"),
        read=ReadSettings(followers_max=FOLLOWERS_MAX),
        grpc=GrpcServerSettings(port=0),
        operations=OperationsSettings(port=0),
        postgres=PostgresSettings(url=SecretStr(database_url)),
        kafka=KafkaSettings(bootstrap_servers=bootstrap_servers),
        identity=IdentitySettings(
            private_key_file=root / "identity.key.pem", trusted_keys_folder=root
        ),
    )


@asynccontextmanager
async def running_service(root: Path, url: str, engine: AsyncEngine) -> AsyncIterator[Service]:
    """Run the collector until the block ends."""
    settings = settings_of(root, database_url=url, bootstrap_servers="in-memory")
    broker = MemoryBroker()
    ids = TimeOrderedIds(CLOCK)
    signer, verifier = identity()
    database = PostgresUnitOfWork(engine, chassis, source=f"/{SERVICE}", clock=CLOCK, ids=ids)
    async with AsyncExitStack() as stack:
        producer = await stack.enter_async_context(broker.open_producer())
        subscription = await stack.enter_async_context(
            broker.open_subscription(group=SERVICE, topics=[TOPIC])
        )
        ports = Ports(
            clock=CLOCK,
            unit_of_work=LogUnitOfWork(database, event_of),
            output=await stack.enter_async_context(
                open_container_files(settings.collect.containers_root)
            ),
            store=await stack.enter_async_context(
                open_segment_store(settings.store.root, segment_bytes_max=1 << 20)
            ),
            publisher=KafkaBlockPublisher(producer, source=f"/{SERVICE}", clock=CLOCK),
        )
        app = wire(ports, settings)
        relay = Relay(
            PostgresOutbox(engine, chassis),
            PostgresLeases(engine, chassis),
            producer,
            holder=ids.new("proc"),
            clock=CLOCK,
            idle=database.idle,
        )
        database.add_listener(relay.wake)
        consumer = EventConsumer(
            subscription,
            app.handlers,
            dead_letters=producer,
            dead_letter_topic=DEAD_LETTERS,
            service=SERVICE,
            group=SERVICE,
        )
        server = await stack.enter_async_context(
            serve(
                settings.grpc,
                register=app.register,
                services=(LOG_SERVICE,),
                verifier=verifier,
                required_scopes=SCOPES,
                callers=CALLERS,
            )
        )
        channel = await stack.enter_async_context(
            open_channel(
                GrpcClientSettings(address=f"127.0.0.1:{server.port}"),
                callee=SERVICE,
                signer=signer,
            )
        )
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for loop in (
                consumer.run,
                app.collect_streams.run,
                app.publish_blocks.run,
                relay.run,
            ):
                group.create_task(loop(stopping))
            try:
                yield Service(
                    Client(channel), broker, settings.collect.containers_root, app.live.drain
                )
            finally:
                stopping.set()
