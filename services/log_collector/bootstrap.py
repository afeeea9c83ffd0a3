"""The log collector's wiring: settings → ports → use cases → RPCs, consumer, loops."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import grpc.aio
from modelyard.logs.v1.log_service_pb2_grpc import add_LogServiceServicer_to_server
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.clock import Clock, SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.db.janitor import Janitor
from services.chassis.db.lease import PostgresLeases
from services.chassis.db.outbox import PostgresOutbox
from services.chassis.db.relay import Relay
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.events.consumer import EventConsumer, Handler
from services.chassis.events.kafka_consumer import open_subscription
from services.chassis.events.kafka_producer import KafkaProducer, open_producer
from services.chassis.events.ports import Subscription
from services.chassis.events.projection import CompactedProjection
from services.chassis.events.sweep import Sweep, add_sweep
from services.chassis.ids import Ids, TimeOrderedIds
from services.chassis.lifecycle import Readiness, Stage, Supervisor, run_until_stopped
from services.chassis.purges import TOPIC as TENANTS
from services.chassis.purges import ApplyPurges, PurgesLoop
from services.chassis.rpc.callers import Callers, Grant
from services.chassis.rpc.identity import TokenVerifier
from services.chassis.rpc.server import RpcLoop
from services.chassis.telemetry.logging import set_up_logging
from services.chassis.telemetry.tracing import open_tracing
from services.chassis.tenancy import PurgedTenants, TenantId
from services.chassis.waking import Waking
from services.chassis.web.operations import serve_operations
from services.log_collector.adapters.container_files.output import open_container_files
from services.log_collector.adapters.gateway_client import GatewayPurgedTenants, open_tenant_list
from services.log_collector.adapters.kafka_blocks import KafkaBlockPublisher
from services.log_collector.adapters.postgres.tables import chassis
from services.log_collector.adapters.postgres.unit_of_work import LogUnitOfWork
from services.log_collector.adapters.segments.store import open_segment_store
from services.log_collector.entrypoints.consumers import attempt_lifecycle
from services.log_collector.entrypoints.grpc.logs import LOG_SERVICE, SCOPES, LogServicer
from services.log_collector.entrypoints.protobuf import event_of
from services.log_collector.settings import Settings
from services.log_collector.use_cases.collect_stream import CollectingBounds, CollectStream
from services.log_collector.use_cases.collect_streams import CollectStreams
from services.log_collector.use_cases.complete_stream import CompleteStream
from services.log_collector.use_cases.end_stream import EndStream
from services.log_collector.use_cases.expect_stream import ExpectStream
from services.log_collector.use_cases.follow_logs import FollowLogs
from services.log_collector.use_cases.live_output import LiveOutput
from services.log_collector.use_cases.open_stream import OpenStream
from services.log_collector.use_cases.output_reader import OutputReader
from services.log_collector.use_cases.ports import (
    BlockPublisher,
    ContainerOutput,
    LogStore,
    UnitOfWork,
)
from services.log_collector.use_cases.publish_blocks import PublishBlocks
from services.log_collector.use_cases.purge_streams import PurgeStreams
from services.log_collector.use_cases.read_logs import ReadLogs
from services.log_collector.use_cases.unpublished import Unpublished

SERVICE: Final = "log-collector"
SOURCE: Final = f"/{SERVICE}"
DEAD_LETTERS: Final = f"modelyard.{SERVICE}.dead-letter.v1"
REQUIRED_SCOPES: Final[Mapping[str, str]] = SCOPES
CALLERS: Final[Callers] = {
    "api-gateway": [Grant(frozenset({"key", "user"}), frozenset({"logs:read"}))],
}


@dataclass(frozen=True, slots=True)
class Ports:
    """What the use cases need from infrastructure."""

    clock: Clock
    unit_of_work: UnitOfWork
    output: ContainerOutput
    store: LogStore
    publisher: BlockPublisher
    purged_tenants: GatewayPurgedTenants | None = None


@dataclass(frozen=True, slots=True)
class App:
    """What answers RPCs and events, and what runs by itself."""

    live: LiveOutput
    servicer: LogServicer
    handlers: Mapping[str, Handler]
    collect_streams: CollectStreams
    publish_blocks: PublishBlocks
    tenants: CompactedProjection
    tenant_list: Sweep[TenantId] | None
    purges: PurgesLoop

    def register(self, server: grpc.aio.Server) -> None:
        """Let a gRPC server answer with this app."""
        add_LogServiceServicer_to_server(self.servicer, server)


def wire(ports: Ports, settings: Settings) -> App:
    """Put use cases on ports."""
    live, unpublished, purged = LiveOutput(), Unpublished(), PurgedTenants()
    purging = Waking(settings.purge.interval)
    apply_purges = ApplyPurges(purged, purging.wake)
    reader = OutputReader(ports.store, live)
    collect = settings.collect
    collect_stream = CollectStream(
        ports.output,
        ports.store,
        live,
        unpublished,
        ports.clock,
        CollectingBounds(
            block_wait_max=collect.block_wait_max,
            read_interval_min=collect.read_interval_min,
            sync_interval=collect.sync_interval,
            settle_after_end=collect.settle_after_end,
            absent_after_end_max=collect.absent_after_end_max,
        ),
    )
    return App(
        live=live,
        servicer=LogServicer(
            ReadLogs(ports.unit_of_work, reader, ports.clock),
            FollowLogs(
                ports.unit_of_work,
                reader,
                live,
                ports.clock,
                followers_max=settings.read.followers_max,
            ),
        ),
        handlers=attempt_lifecycle.handlers(
            ExpectStream(ports.unit_of_work, live),
            OpenStream(ports.unit_of_work, live),
            EndStream(ports.unit_of_work, live),
        ),
        collect_streams=CollectStreams(
            ports.unit_of_work,
            collect_stream,
            CompleteStream(ports.unit_of_work, live, ports.clock),
            live,
            node_id=collect.node_id,
            streams_max=collect.streams_max,
        ),
        publish_blocks=PublishBlocks(ports.store, ports.publisher, unpublished),
        tenants=CompactedProjection(settings.kafka, TENANTS, apply_purges, client_id=SERVICE),
        tenant_list=None
        if ports.purged_tenants is None
        else Sweep(
            ports.purged_tenants,
            apply_purges.add,
            what="tenants",
            interval=settings.tenants_read_interval,
        ),
        purges=PurgesLoop(
            PurgeStreams(
                ports.unit_of_work,
                ports.store,
                purged,
                node_id=collect.node_id,
                streams_per_pass_max=settings.purge.streams_per_pass_max,
            ),
            purging,
            what="output",
        ),
    )


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """The technology under the ports, for the loops and the server that the chassis has."""

    ids: Ids
    engine: AsyncEngine
    database: PostgresUnitOfWork
    producer: KafkaProducer
    subscription: Subscription
    verifier: TokenVerifier


@asynccontextmanager
async def production_ports(settings: Settings) -> AsyncIterator[tuple[Ports, Infrastructure]]:
    """Open everything infrastructure; closed in reverse order, whatever fails."""
    clock = SystemClock()
    ids = TimeOrderedIds(clock)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            open_engine(settings.postgres, application_name=SERVICE)
        )
        producer = await stack.enter_async_context(open_producer(settings.kafka, client_id=SERVICE))
        subscription = await stack.enter_async_context(
            open_subscription(
                settings.kafka, group=SERVICE, topics=[attempt_lifecycle.TOPIC], client_id=SERVICE
            )
        )
        files = await stack.enter_async_context(
            open_container_files(settings.collect.containers_root)
        )
        store = await stack.enter_async_context(
            open_segment_store(
                settings.store.root, segment_bytes_max=settings.store.segment_bytes_max
            )
        )
        purged_tenants = await stack.enter_async_context(
            open_tenant_list(settings.gateway, settings.identity, clock)
        )
        database = PostgresUnitOfWork(engine, chassis, source=SOURCE, clock=clock, ids=ids)
        ports = Ports(
            clock=clock,
            unit_of_work=LogUnitOfWork(database, event_of),
            output=files,
            store=store,
            publisher=KafkaBlockPublisher(producer, source=SOURCE, clock=clock),
            purged_tenants=purged_tenants,
        )
        verifier = TokenVerifier.load(SERVICE, settings.identity, clock)
        yield ports, Infrastructure(ids, engine, database, producer, subscription, verifier)


async def serve(settings: Settings) -> int:
    """Run the log collector until it is told to stop; return its exit code."""
    set_up_logging(SERVICE, level=settings.telemetry.log_level)
    with open_tracing(SERVICE, settings.telemetry):
        async with AsyncExitStack() as stack:
            ports, infrastructure = await stack.enter_async_context(production_ports(settings))
            app = wire(ports, settings)
            relay = Relay(
                PostgresOutbox(infrastructure.engine, chassis),
                PostgresLeases(infrastructure.engine, chassis),
                infrastructure.producer,
                holder=infrastructure.ids.new("proc"),
                clock=ports.clock,
                idle=infrastructure.database.idle,
            )
            infrastructure.database.add_listener(relay.wake)
            consumer = EventConsumer(
                infrastructure.subscription,
                app.handlers,
                dead_letters=infrastructure.producer,
                dead_letter_topic=DEAD_LETTERS,
                service=SERVICE,
                group=SERVICE,
            )
            rpcs = RpcLoop(
                settings.grpc,
                register=app.register,
                services=(LOG_SERVICE,),
                verifier=infrastructure.verifier,
                required_scopes=REQUIRED_SCOPES,
                callers=CALLERS,
                drain_max=settings.shutdown.stage_timeout / 2,
                on_drain=app.live.drain,
            )
            readiness = Readiness()
            readiness.add("grpc", rpcs.ping)
            readiness.add("database", infrastructure.database.ping)
            readiness.add("kafka", infrastructure.producer.ping)
            supervisor = Supervisor()
            supervisor.add("grpc", rpcs.run, Stage.INTAKE)
            supervisor.add("consumer", consumer.run, Stage.INTAKE)
            supervisor.add("tenants", app.tenants.run, Stage.INTAKE)
            add_sweep(supervisor, readiness, app.tenant_list, what="tenants")
            supervisor.add("purges", app.purges.run, Stage.INTAKE)
            supervisor.add("collect", app.collect_streams.run, Stage.WORK)
            supervisor.add("publish", app.publish_blocks.run, Stage.RELAY)
            supervisor.add("relay", relay.run, Stage.RELAY)
            supervisor.add("janitor", Janitor(infrastructure.engine, chassis).run, Stage.LAST)
            await stack.enter_async_context(serve_operations(settings.operations, readiness))
            return await run_until_stopped(supervisor, readiness, settings.shutdown)
