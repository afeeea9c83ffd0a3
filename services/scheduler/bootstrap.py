"""The scheduler's wiring: settings → ports → use cases → RPCs → loops."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import grpc.aio
from modelyard.scheduler.v1 import deployment_service_pb2_grpc, job_service_pb2_grpc
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.clock import Clock, SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.db.janitor import Janitor
from services.chassis.db.lease import LeaseKeeper
from services.chassis.db.relay import Relay
from services.chassis.db.unit_of_work import PostgresUnitOfWork as ChassisUnitOfWork
from services.chassis.events.kafka_producer import KafkaProducer, open_producer
from services.chassis.ids import Ids, TimeOrderedIds
from services.chassis.lifecycle import Readiness, Stage, Supervisor, run_until_stopped
from services.chassis.rpc.client import Edge, open_channel
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.rpc.server import serve as serve_rpcs
from services.chassis.telemetry.logging import set_up_logging
from services.chassis.telemetry.tracing import open_tracing
from services.chassis.web.operations import serve_operations
from services.scheduler.adapters.postgres.tables import CHASSIS
from services.scheduler.adapters.postgres.unit_of_work import PostgresUnitOfWork
from services.scheduler.adapters.registry_models import RegistryModels
from services.scheduler.entrypoints.grpc.deployments import DeploymentRpcs
from services.scheduler.entrypoints.grpc.jobs import JobRpcs
from services.scheduler.entrypoints.loops.deployments import DeploymentsLoop
from services.scheduler.entrypoints.loops.scheduling import SchedulingLoop
from services.scheduler.entrypoints.loops.waking import Waking
from services.scheduler.settings import Settings
from services.scheduler.use_cases.deployments.create_deployment import CreateDeployment
from services.scheduler.use_cases.deployments.delete_deployment import DeleteDeployment
from services.scheduler.use_cases.deployments.get_deployment import GetDeployment
from services.scheduler.use_cases.deployments.list_deployments import ListDeployments
from services.scheduler.use_cases.deployments.list_routes import ListRoutes
from services.scheduler.use_cases.deployments.reconcile_deployments import ReconcileDeployments
from services.scheduler.use_cases.deployments.republish_routes import RepublishRoutes
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.jobs.get_job import GetJob
from services.scheduler.use_cases.jobs.list_jobs import ListJobs
from services.scheduler.use_cases.jobs.submit_job import SubmitJob
from services.scheduler.use_cases.ports import ModelCatalog, UnitOfWork
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import RunSchedulingCycle

SERVICE: Final = "scheduler"
JOB_SERVICE: Final = "modelyard.scheduler.v1.JobService"
DEPLOYMENT_SERVICE: Final = "modelyard.scheduler.v1.DeploymentService"
REQUIRED_SCOPES: Final[Mapping[str, str]] = {
    f"/{JOB_SERVICE}/SubmitJob": "jobs:write",
    f"/{JOB_SERVICE}/GetJob": "jobs:read",
    f"/{JOB_SERVICE}/ListJobs": "jobs:read",
    f"/{JOB_SERVICE}/CancelJob": "jobs:write",
    f"/{DEPLOYMENT_SERVICE}/CreateDeployment": "deployments:write",
    f"/{DEPLOYMENT_SERVICE}/GetDeployment": "deployments:read",
    f"/{DEPLOYMENT_SERVICE}/ListDeployments": "deployments:read",
    f"/{DEPLOYMENT_SERVICE}/DeleteDeployment": "deployments:write",
    f"/{DEPLOYMENT_SERVICE}/ListRoutes": "routes:read",
}


@dataclass(frozen=True, slots=True)
class Ports:
    """What the scheduler needs from outside."""

    clock: Clock
    ids: Ids
    engine: AsyncEngine
    database: ChassisUnitOfWork
    unit_of_work: UnitOfWork
    producer: KafkaProducer
    models: ModelCatalog
    verifier: TokenVerifier


@dataclass(frozen=True, slots=True)
class App:
    """What answers RPCs, and what runs by itself."""

    jobs: JobRpcs
    deployments: DeploymentRpcs
    scheduling_loop: SchedulingLoop
    deployments_loop: DeploymentsLoop

    def register(self, server: grpc.aio.Server) -> None:
        """Let a gRPC server answer with this app."""
        job_service_pb2_grpc.add_JobServiceServicer_to_server(self.jobs, server)
        deployment_service_pb2_grpc.add_DeploymentServiceServicer_to_server(
            self.deployments, server
        )

    def wake(self) -> None:
        """Let the leader's loops look: something was committed."""
        self.scheduling_loop.waking.wake()
        self.deployments_loop.waking.wake()


async def serve(settings: Settings) -> int:
    """Run the scheduler until it is told to stop; return its exit code."""
    set_up_logging(SERVICE, level=settings.telemetry.log_level)
    with open_tracing(SERVICE, settings.telemetry):
        async with AsyncExitStack() as stack:
            ports = await stack.enter_async_context(production_ports(settings))
            leader = _lease(ports, "scheduling", settings)
            app = wire(ports, settings, leader)
            relay = Relay(
                ports.engine,
                CHASSIS,
                ports.producer,
                holder=ports.ids.new("proc"),
                clock=ports.clock,
            )
            ports.database.add_listener(relay.wake)
            ports.database.add_listener(app.wake)
            readiness = _readiness(ports)

            async def answer(stopping: asyncio.Event) -> None:
                async with serve_rpcs(
                    settings.grpc,
                    register=app.register,
                    services=(JOB_SERVICE, DEPLOYMENT_SERVICE),
                    verifier=ports.verifier,
                    required_scopes=REQUIRED_SCOPES,
                ) as server:
                    await stopping.wait()
                    await server.drain(settings.shutdown.stage_timeout / 2)

            supervisor = Supervisor()
            supervisor.add("grpc", answer, Stage.INTAKE)
            supervisor.add("scheduling", app.scheduling_loop.run, Stage.INTAKE)
            supervisor.add("deployments", app.deployments_loop.run, Stage.INTAKE)
            supervisor.add("relay", relay.run, Stage.RELAY)
            supervisor.add("janitor", Janitor(ports.engine, CHASSIS).run, Stage.LAST)
            supervisor.add("lease", leader.run, Stage.LAST)
            await stack.enter_async_context(serve_operations(settings.operations, readiness))
            return await run_until_stopped(supervisor, readiness, settings.shutdown)


@asynccontextmanager
async def production_ports(settings: Settings) -> AsyncIterator[Ports]:
    """Open everything outside; closed in reverse order, whatever fails."""
    clock = SystemClock()
    ids = TimeOrderedIds(clock)
    signer = TokenSigner.load(SERVICE, settings.identity, clock)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            open_engine(settings.postgres, application_name=SERVICE)
        )
        producer = await stack.enter_async_context(open_producer(settings.kafka, client_id=SERVICE))
        registry = await stack.enter_async_context(open_channel(settings.registry, signer=signer))
        database = ChassisUnitOfWork(engine, CHASSIS, source=f"/{SERVICE}", clock=clock, ids=ids)
        yield Ports(
            clock=clock,
            ids=ids,
            engine=engine,
            database=database,
            unit_of_work=PostgresUnitOfWork(database),
            producer=producer,
            models=RegistryModels(registry, Edge.to("model-registry"), settings.registry.deadline),
            verifier=TokenVerifier.load(settings.identity, clock),
        )


def wire(ports: Ports, settings: Settings, leader: LeaseKeeper) -> App:
    """Put use cases on ports."""
    store, ids = ports.unit_of_work, ports.ids
    admission, scheduling = settings.admission, settings.scheduling
    jobs = JobRpcs(
        submit_job=SubmitJob(
            store,
            ids,
            queued_jobs_max=admission.queued_jobs_max,
            retry_after=admission.queue_retry_after,
        ),
        get_job=GetJob(store),
        list_jobs=ListJobs(store),
        cancel_job=CancelJob(store),
    )
    deployments = DeploymentRpcs(
        create_deployment=CreateDeployment(
            store, ports.models, ids, replicas_max=admission.replicas_max
        ),
        get_deployment=GetDeployment(store),
        list_deployments=ListDeployments(store),
        delete_deployment=DeleteDeployment(store),
        list_routes=ListRoutes(store),
    )
    scheduling_loop = SchedulingLoop(
        RunSchedulingCycle(
            store,
            ids,
            heads_max=scheduling.cycle_heads_max,
            node_silence_max=scheduling.node_silence_max,
        ),
        leader,
        Waking(scheduling.cycle_interval_max),
    )
    deployments_loop = DeploymentsLoop(
        ReconcileDeployments(
            store,
            deployments_per_pass_max=settings.deployments.deployments_per_pass_max,
            routes_settle=settings.deployments.routes_settle,
        ),
        RepublishRoutes(store, batch_max=settings.deployments.republish_batch_max),
        settings.deployments.republish_interval,
        leader,
        Waking(scheduling.cycle_interval_max),
        ports.clock,
    )
    return App(jobs, deployments, scheduling_loop, deployments_loop)


def _lease(ports: Ports, name: str, settings: Settings) -> LeaseKeeper:
    return LeaseKeeper(
        ports.engine,
        CHASSIS,
        name,
        holder=ports.ids.new("proc"),
        ttl=settings.scheduling.lease_ttl,
        clock=ports.clock,
    )


def _readiness(ports: Ports) -> Readiness:
    async def database_answers() -> None:
        async with ports.database.system(because="readiness") as tx:
            await tx.connection.execute(select(1))

    readiness = Readiness()
    readiness.add("database", database_answers)
    readiness.add("kafka", ports.producer.ping)
    return readiness
