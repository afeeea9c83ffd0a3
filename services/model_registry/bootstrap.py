"""The model registry's wiring: settings → ports → use cases → RPCs, consumer, loops."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import grpc.aio
from modelyard.registry.v1.artifact_service_pb2_grpc import add_ArtifactServiceServicer_to_server
from modelyard.registry.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.clock import Clock, SystemClock
from services.chassis.db.engine import autocommitting, open_engine
from services.chassis.db.janitor import Janitor
from services.chassis.db.lease import PostgresLeases
from services.chassis.db.outbox import PostgresOutbox
from services.chassis.db.relay import Relay
from services.chassis.db.unit_of_work import PostgresUnitOfWork, database_breaker
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
from services.chassis.tenancy import PurgedTenants
from services.chassis.waking import Waking
from services.chassis.web.operations import serve_operations
from services.model_registry.adapters.blob_store import open_blob_store
from services.model_registry.adapters.gateway_client import GatewayPurgedTenants, open_tenant_list
from services.model_registry.adapters.postgres.tables import chassis
from services.model_registry.adapters.postgres.unit_of_work import RegistryUnitOfWork
from services.model_registry.entrypoints.consumers import job_lifecycle
from services.model_registry.entrypoints.grpc import artifacts, models
from services.model_registry.entrypoints.protobuf import event_of
from services.model_registry.settings import Settings
from services.model_registry.use_cases.create_model import CreateModel
from services.model_registry.use_cases.create_version import CreateVersion
from services.model_registry.use_cases.delete_alias import DeleteAlias
from services.model_registry.use_cases.get_artifact import GetArtifact
from services.model_registry.use_cases.get_model import GetModel
from services.model_registry.use_cases.get_version import GetVersion
from services.model_registry.use_cases.list_models import ListModels
from services.model_registry.use_cases.list_versions import ListVersions
from services.model_registry.use_cases.ports import Blobs, UnitOfWork
from services.model_registry.use_cases.purge_tenants import PurgeTenants
from services.model_registry.use_cases.put_artifact import PutArtifact
from services.model_registry.use_cases.register_outputs import RegisterOutputs
from services.model_registry.use_cases.set_alias import SetAlias
from services.model_registry.use_cases.set_model_tags import SetModelTags
from services.model_registry.use_cases.stat_artifact import StatArtifact

SERVICE: Final = "model-registry"
RPC_SERVICES: Final = (models.SERVICE, artifacts.SERVICE)
REQUIRED_SCOPES: Final[Mapping[str, str]] = {**models.SCOPES, **artifacts.SCOPES}
CALLERS: Final[Callers] = {
    "api-gateway": [Grant(frozenset({"key", "user"}), frozenset(REQUIRED_SCOPES.values()))],
    # A node runs the tenants' code. What is taken from it must not serve to store in the name of a
    # tenant at large, nor what stores be good for anything beside.
    "scheduler": [
        Grant(frozenset({"scheduler"}), frozenset({"models:read", "artifacts:read"})),
        Grant(frozenset({"attempt"}), frozenset({"artifacts:write"})),
    ],
}
DEAD_LETTERS: Final = f"modelyard.{SERVICE}.dead-letter.v1"


@dataclass(frozen=True, slots=True)
class Ports:
    """What the use cases need from infrastructure."""

    clock: Clock
    ids: Ids
    unit_of_work: UnitOfWork
    blobs: Blobs


@dataclass(frozen=True, slots=True)
class App:
    """What answers RPCs and events."""

    models: models.ModelServicer
    artifacts: artifacts.ArtifactServicer
    handlers: Mapping[str, Handler]

    def register(self, server: grpc.aio.Server) -> None:
        """Let a gRPC server answer with this app."""
        add_ModelServiceServicer_to_server(self.models, server)
        add_ArtifactServiceServicer_to_server(self.artifacts, server)


def wire(ports: Ports) -> App:
    """Put use cases on ports."""
    unit_of_work, clock, ids = ports.unit_of_work, ports.clock, ports.ids
    return App(
        models=models.ModelServicer(
            create_model=CreateModel(unit_of_work, clock, ids),
            get_model=GetModel(unit_of_work),
            list_models=ListModels(unit_of_work),
            create_version=CreateVersion(unit_of_work, clock),
            get_version=GetVersion(unit_of_work),
            list_versions=ListVersions(unit_of_work),
            set_alias=SetAlias(unit_of_work, clock),
            delete_alias=DeleteAlias(unit_of_work, clock),
            set_model_tags=SetModelTags(unit_of_work),
        ),
        artifacts=artifacts.ArtifactServicer(
            put_artifact=PutArtifact(unit_of_work, ports.blobs),
            get_artifact=GetArtifact(unit_of_work, ports.blobs),
            stat_artifact=StatArtifact(unit_of_work),
        ),
        handlers=job_lifecycle.handlers(RegisterOutputs(unit_of_work, clock, ids)),
    )


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """The technology under the ports, for the loops and the server that the chassis has."""

    engine: AsyncEngine
    database: PostgresUnitOfWork
    producer: KafkaProducer
    subscription: Subscription
    verifier: TokenVerifier
    purged_tenants: GatewayPurgedTenants | None


@asynccontextmanager
async def production_ports(settings: Settings) -> AsyncIterator[tuple[Ports, Infrastructure]]:
    """Open everything outside; closed in reverse order, whatever fails."""
    clock = SystemClock()
    ids = TimeOrderedIds(clock)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            open_engine(settings.postgres, application_name=SERVICE)
        )
        producer = await stack.enter_async_context(open_producer(settings.kafka, client_id=SERVICE))
        subscription = await stack.enter_async_context(
            open_subscription(
                settings.kafka, group=SERVICE, topics=[job_lifecycle.TOPIC], client_id=SERVICE
            )
        )
        blobs = await stack.enter_async_context(
            open_blob_store(
                settings.artifacts.root,
                blob_bytes_max=settings.artifacts.blob_bytes_max,
                io_threads=settings.artifacts.io_threads,
            )
        )
        purged_tenants = await stack.enter_async_context(
            open_tenant_list(settings.gateway, settings.identity, clock)
        )
        database, reading = databases(engine, clock, ids)
        yield (
            Ports(
                clock,
                ids,
                RegistryUnitOfWork(database, reading=reading, event_of=event_of),
                blobs,
            ),
            Infrastructure(
                engine,
                database,
                producer,
                subscription,
                TokenVerifier.load(SERVICE, settings.identity, clock),
                purged_tenants,
            ),
        )


def databases(
    engine: AsyncEngine, clock: Clock, ids: Ids
) -> tuple[PostgresUnitOfWork, PostgresUnitOfWork]:
    """Return the units of work for changes and for look-ups, behind one breaker."""
    breaker = database_breaker()

    def on(engine: AsyncEngine) -> PostgresUnitOfWork:
        return PostgresUnitOfWork(
            engine, chassis, source=f"/{SERVICE}", clock=clock, ids=ids, breaker=breaker
        )

    return on(engine), on(autocommitting(engine))


async def serve(settings: Settings) -> int:
    """Run the model registry until it is told to stop; return its exit code."""
    set_up_logging(SERVICE, level=settings.telemetry.log_level)
    with open_tracing(SERVICE, settings.telemetry):
        async with AsyncExitStack() as stack:
            ports, infrastructure = await stack.enter_async_context(production_ports(settings))
            app = wire(ports)
            rpcs = RpcLoop(
                settings.grpc,
                register=app.register,
                services=RPC_SERVICES,
                verifier=infrastructure.verifier,
                required_scopes=REQUIRED_SCOPES,
                callers=CALLERS,
                drain_max=settings.shutdown.stage_timeout / 2,
            )
            readiness = Readiness()
            readiness.add("grpc", rpcs.ping)
            readiness.add("database", infrastructure.database.ping)
            readiness.add("kafka", infrastructure.producer.ping)
            await stack.enter_async_context(serve_operations(settings.operations, readiness))
            supervisor = _supervisor(app, ports, infrastructure, settings, readiness)
            supervisor.add("grpc", rpcs.run, Stage.INTAKE)
            return await run_until_stopped(supervisor, readiness, settings.shutdown)


def _supervisor(
    app: App,
    ports: Ports,
    infrastructure: Infrastructure,
    settings: Settings,
    readiness: Readiness,
) -> Supervisor:
    purged, purging = PurgedTenants(), Waking(settings.purge.interval)
    apply_purges = ApplyPurges(purged, purging.wake)
    known = CompactedProjection(settings.kafka, TENANTS, apply_purges, client_id=SERVICE)
    tenant_list = None
    if infrastructure.purged_tenants is not None:
        tenant_list = Sweep(
            infrastructure.purged_tenants,
            apply_purges.add,
            what="tenants",
            interval=settings.tenants_read_interval,
        )
    purge = PurgeTenants(
        ports.unit_of_work,
        ports.blobs,
        purged,
        rows_per_pass_max=settings.purge.rows_per_pass_max,
    )
    relay = Relay(
        PostgresOutbox(infrastructure.engine, chassis),
        PostgresLeases(infrastructure.engine, chassis),
        infrastructure.producer,
        holder=ports.ids.new("proc"),
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
    supervisor = Supervisor()
    supervisor.add("consumer", consumer.run, Stage.INTAKE)
    supervisor.add("tenants", known.run, Stage.INTAKE)
    add_sweep(supervisor, readiness, tenant_list, what="tenants")
    supervisor.add("purges", PurgesLoop(purge, purging, what="models").run, Stage.INTAKE)
    supervisor.add("relay", relay.run, Stage.RELAY)
    supervisor.add("janitor", Janitor(infrastructure.engine, chassis).run, Stage.LAST)
    return supervisor
