"""The scheduler's wiring: settings → ports → use cases → RPCs → loops."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import grpc.aio
from modelyard.gateway.v1 import tenant_events_pb2
from modelyard.scheduler.v1 import (
    deployment_service_pb2_grpc,
    job_service_pb2_grpc,
    node_service_pb2_grpc,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.clock import Clock, SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.db.janitor import Janitor
from services.chassis.db.lease import LeaseKeeper, Recurrence
from services.chassis.db.relay import Relay
from services.chassis.db.unit_of_work import PostgresUnitOfWork as ChassisUnitOfWork
from services.chassis.errors import Unavailable
from services.chassis.events.consumer import EventConsumer, Handler
from services.chassis.events.kafka_consumer import open_subscription
from services.chassis.events.kafka_producer import KafkaProducer, open_producer
from services.chassis.events.projection import CompactedProjection
from services.chassis.events.sweep import Sweep, add_sweep
from services.chassis.ids import Ids, TimeOrderedIds
from services.chassis.lifecycle import Readiness, Stage, Supervisor, run_until_stopped
from services.chassis.purges import PurgesLoop
from services.chassis.rpc.client import Edge, open_channel
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.rpc.server import RpcLoop
from services.chassis.telemetry.logging import set_up_logging
from services.chassis.telemetry.tracing import open_tracing
from services.chassis.waking import Waking
from services.chassis.web.operations import serve_operations
from services.scheduler.adapters.gateway_client import GatewayTenants, open_tenant_list
from services.scheduler.adapters.model_server_mlserver import MlServerSklearn
from services.scheduler.adapters.postgres.tables import CHASSIS
from services.scheduler.adapters.postgres.unit_of_work import PostgresUnitOfWork
from services.scheduler.adapters.registry_artifacts.artifacts import RegistryArtifacts
from services.scheduler.adapters.registry_artifacts.node_cache import NodeCache
from services.scheduler.adapters.registry_models import RegistryModels
from services.scheduler.adapters.run_traces import TelemetryRunTraces
from services.scheduler.adapters.runtime_docker.hardening import Hardening, Users
from services.scheduler.adapters.runtime_docker.runtime import DockerOptions, open_docker_runtime
from services.scheduler.adapters.runtime_process.runtime import ProcessRuntime
from services.scheduler.adapters.server_probe import open_server_probe
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.tenants.tenant import TenantTable
from services.scheduler.entrypoints.consumers import log_stream, tenants
from services.scheduler.entrypoints.facts import event_of
from services.scheduler.entrypoints.grpc.deployments import DeploymentRpcs
from services.scheduler.entrypoints.grpc.jobs import JobRpcs
from services.scheduler.entrypoints.grpc.nodes import NodeRpcs
from services.scheduler.entrypoints.loops.deployments import DeploymentsLoop
from services.scheduler.entrypoints.loops.purges import PurgeWhileLeading
from services.scheduler.entrypoints.loops.runner import RunnerIntervals, RunnerLoop
from services.scheduler.entrypoints.loops.runtime_watch import RuntimeWatch
from services.scheduler.entrypoints.loops.scheduling import SchedulingLoop
from services.scheduler.entrypoints.loops.suspensions import SuspensionsLoop
from services.scheduler.entrypoints.loops.waking import Alarms
from services.scheduler.settings import (
    ProcessRuntimeSettings,
    Settings,
)
from services.scheduler.use_cases.attempts.clean_up_containers import CleanUpContainers
from services.scheduler.use_cases.attempts.drive_attempt import DriveAttempt, DriveLimits
from services.scheduler.use_cases.attempts.keep_node import KeepNode
from services.scheduler.use_cases.attempts.ports import (
    ArtifactStore,
    ContainerRuntime,
    ModelServer,
    RunTraces,
    ServerProbe,
)
from services.scheduler.use_cases.attempts.prepare_container import PrepareContainer
from services.scheduler.use_cases.attempts.record_attempt import RecordAttempt
from services.scheduler.use_cases.attempts.remove_container import RemoveContainer
from services.scheduler.use_cases.attempts.store_outputs import StoreOutputs
from services.scheduler.use_cases.deployments.create_deployment import CreateDeployment
from services.scheduler.use_cases.deployments.delete_deployment import DeleteDeployment
from services.scheduler.use_cases.deployments.get_deployment import GetDeployment
from services.scheduler.use_cases.deployments.list_deployments import ListDeployments
from services.scheduler.use_cases.deployments.list_routes import ListRoutes
from services.scheduler.use_cases.deployments.reconcile_deployments import ReconcileDeployments
from services.scheduler.use_cases.deployments.republish_routes import RepublishRoutes
from services.scheduler.use_cases.fleet.list_nodes import ListNodes
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.jobs.get_job import GetJob
from services.scheduler.use_cases.jobs.list_jobs import ListJobs
from services.scheduler.use_cases.jobs.submit_job import SubmitJob
from services.scheduler.use_cases.ports import ModelCatalog
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import RunSchedulingCycle
from services.scheduler.use_cases.tenants.purge_tenants import PurgeTenants
from services.scheduler.use_cases.tenants.stop_suspended_jobs import StopSuspendedJobs

SERVICE: Final = "scheduler"
TENANTS: Final = "tenants"
JOB_SERVICE: Final = "modelyard.scheduler.v1.JobService"
DEPLOYMENT_SERVICE: Final = "modelyard.scheduler.v1.DeploymentService"
NODE_SERVICE: Final = "modelyard.scheduler.v1.NodeService"
DEAD_LETTERS: Final = "modelyard.scheduler.dead-letter.v1"
MODEL_SERVERS: Final[Mapping[str, ModelServer]] = {"modelyard/serve-sklearn": MlServerSklearn()}
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
    f"/{NODE_SERVICE}/ListNodes": "nodes:read",
}


@dataclass(frozen=True, slots=True)
class Ports:
    """What the scheduler needs from outside."""

    clock: Clock
    ids: Ids
    engine: AsyncEngine
    database: ChassisUnitOfWork
    unit_of_work: PostgresUnitOfWork
    producer: KafkaProducer
    verifier: TokenVerifier
    models: ModelCatalog
    artifacts: ArtifactStore
    runtime: ContainerRuntime
    probe: ServerProbe
    traces: RunTraces
    list_tenants: GatewayTenants | None

    def lease(self, name: str, ttl: timedelta) -> LeaseKeeper:
        """Return the keeper of a lease for this process incarnation."""
        holder = self.ids.new("proc")
        return LeaseKeeper(self.engine, CHASSIS, name, holder=holder, ttl=ttl, clock=self.clock)


@dataclass(frozen=True, slots=True)
class App:
    """What answers calls and events, and what runs by itself."""

    jobs: JobRpcs
    deployments: DeploymentRpcs
    nodes: NodeRpcs
    scheduling: SchedulingLoop
    reconciling: DeploymentsLoop
    suspensions: SuspensionsLoop
    purges: PurgesLoop
    runner: RunnerLoop
    tenants: CompactedProjection
    tenant_list: Sweep[tenant_events_pb2.Tenant] | None
    log_stream: Mapping[str, Handler]

    def register(self, server: grpc.aio.Server) -> None:
        """Let a gRPC server answer with this app."""
        job_service_pb2_grpc.add_JobServiceServicer_to_server(self.jobs, server)
        deployment_service_pb2_grpc.add_DeploymentServiceServicer_to_server(
            self.deployments, server
        )
        node_service_pb2_grpc.add_NodeServiceServicer_to_server(self.nodes, server)

    @property
    def alarms(self) -> Alarms:
        """Return what lets the loops look when a fact is committed."""
        return Alarms(self.scheduling.waking, self.reconciling.waking, self.runner.waking)


async def serve(settings: Settings) -> int:
    """Run the scheduler until it is told to stop; return its exit code."""
    set_up_logging(SERVICE, level=settings.telemetry.log_level)
    with open_tracing(SERVICE, settings.telemetry):
        async with AsyncExitStack() as stack:
            ports = await stack.enter_async_context(production_ports(settings))
            app = wire(ports, settings)
            rpcs = RpcLoop(
                settings.grpc,
                register=app.register,
                services=(JOB_SERVICE, DEPLOYMENT_SERVICE, NODE_SERVICE),
                verifier=ports.verifier,
                required_scopes=REQUIRED_SCOPES,
                drain_max=settings.shutdown.stage_timeout / 2,
            )

            async def tenants_known() -> None:
                if not app.tenants.is_caught_up:
                    raise Unavailable("tenants")

            readiness = Readiness()
            readiness.add("grpc", rpcs.ping)
            readiness.add("database", ports.database.ping)
            readiness.add("kafka", ports.producer.ping)
            readiness.add("tenants", tenants_known)
            readiness.advise("container-runtime", app.runner.watch.check)
            await stack.enter_async_context(serve_operations(settings.operations, readiness))
            supervisor = _supervisor(app, rpcs, ports, settings)
            add_sweep(supervisor, readiness, app.tenant_list, what=TENANTS)
            return await run_until_stopped(supervisor, readiness, settings.shutdown)


@asynccontextmanager
async def production_ports(settings: Settings) -> AsyncIterator[Ports]:
    """Open everything outside; closed in reverse order, whatever fails."""
    clock = SystemClock()
    ids = TimeOrderedIds(clock)
    signer = TokenSigner.load(SERVICE, settings.identity, clock)
    runner = settings.runner
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            open_engine(settings.postgres, application_name=SERVICE)
        )
        producer = await stack.enter_async_context(open_producer(settings.kafka, client_id=SERVICE))
        registry = await stack.enter_async_context(open_channel(settings.registry, signer=signer))
        list_tenants = await stack.enter_async_context(
            open_tenant_list(settings.gateway, signer=signer)
        )
        probe = await stack.enter_async_context(open_server_probe(timeout=runner.probe_timeout))
        database = ChassisUnitOfWork(engine, CHASSIS, source=f"/{SERVICE}", clock=clock, ids=ids)
        yield Ports(
            clock=clock,
            ids=ids,
            engine=engine,
            database=database,
            unit_of_work=PostgresUnitOfWork(database, event_of),
            producer=producer,
            verifier=TokenVerifier.load(settings.identity, clock),
            models=RegistryModels(registry, Edge.to("model-registry"), settings.registry.deadline),
            artifacts=RegistryArtifacts(
                registry,
                # Its own edge: slow transfers must not open the breaker of CreateDeployment.
                Edge.to("model-registry-artifacts"),
                NodeCache(runner.node_cache_root, bytes_max=runner.node_cache_bytes_max),
                transfer_timeout=runner.transfer_timeout,
            ),
            runtime=await stack.enter_async_context(_open_runtime(settings, clock)),
            probe=probe,
            traces=TelemetryRunTraces(),
            list_tenants=list_tenants,
        )


def wire(ports: Ports, settings: Settings) -> App:
    """Put use cases on ports."""
    store, ids = ports.unit_of_work, ports.ids
    scheduling, deployments = settings.scheduling, settings.deployments
    leader = ports.lease("scheduling", scheduling.lease_ttl)
    known = TenantTable(is_whole=ports.list_tenants is None)
    cycle, reconciling, suspending = (Waking(scheduling.cycle_interval_max) for _ in range(3))
    purging = Waking(settings.purge.interval)

    def tenant_changed() -> None:
        for concerned in (cycle, reconciling, suspending, purging):
            concerned.wake()

    def tenants_complete() -> None:
        known.complete()
        cycle.wake()

    apply_tenants = tenants.ApplyTenants(known, tenant_changed)
    projection = CompactedProjection(
        settings.kafka, tenants.TOPIC, apply_tenants, client_id=SERVICE
    )
    tenant_list = None
    if ports.list_tenants is not None:
        tenant_list = Sweep(
            ports.list_tenants,
            apply_tenants.take,
            what=TENANTS,
            interval=settings.tenants_read_interval,
            on_done=tenants_complete,
        )
    runner, remove_container = _wire_runner(ports, settings)
    return App(
        jobs=_wire_jobs(ports, settings, known),
        deployments=_wire_deployments(ports, settings, known),
        nodes=NodeRpcs(ListNodes(store, scheduling.node_silence_max)),
        scheduling=SchedulingLoop(
            RunSchedulingCycle(
                store,
                known,
                ids,
                heads_max=scheduling.cycle_heads_max,
                node_silence_max=scheduling.node_silence_max,
            ),
            leader,
            cycle,
            lambda: projection.is_caught_up,
        ),
        reconciling=DeploymentsLoop(
            ReconcileDeployments(
                store,
                known,
                deployments_per_pass_max=deployments.deployments_per_pass_max,
                routes_settle=deployments.routes_settle,
            ),
            RepublishRoutes(store, batch_max=deployments.republish_batch_max),
            Recurrence(deployments.republish_interval, ports.clock),
            leader,
            reconciling,
        ),
        suspensions=SuspensionsLoop(
            StopSuspendedJobs(
                store, known, jobs_per_pass_max=scheduling.suspended_jobs_per_pass_max
            ),
            leader,
            suspending,
        ),
        purges=PurgesLoop(
            PurgeWhileLeading(
                PurgeTenants(
                    store,
                    known,
                    DeleteDeployment(store),
                    owners_per_pass_max=settings.purge.owners_per_pass_max,
                ),
                leader,
            ),
            purging,
            what="rows",
        ),
        runner=runner,
        tenants=projection,
        tenant_list=tenant_list,
        log_stream=log_stream.handlers(remove_container),
    )


def _wire_jobs(ports: Ports, settings: Settings, known: TenantTable) -> JobRpcs:
    store, admission = ports.unit_of_work, settings.admission
    return JobRpcs(
        submit_job=SubmitJob(
            store,
            known,
            ports.ids,
            queued_jobs_max=admission.queued_jobs_max,
            retry_after=admission.queue_retry_after,
            images=settings.runtime.images.keys(),
        ),
        get_job=GetJob(store, known),
        list_jobs=ListJobs(store, known),
        cancel_job=CancelJob(store),
    )


def _wire_deployments(ports: Ports, settings: Settings, known: TenantTable) -> DeploymentRpcs:
    store = ports.unit_of_work
    return DeploymentRpcs(
        create_deployment=CreateDeployment(
            store,
            known,
            ports.models,
            ports.ids,
            replicas_max=settings.admission.replicas_max,
            images=settings.runtime.images.keys() & MODEL_SERVERS.keys(),
        ),
        get_deployment=GetDeployment(store, known),
        list_deployments=ListDeployments(store, known),
        delete_deployment=DeleteDeployment(store),
        list_routes=ListRoutes(store),
    )


def _wire_runner(ports: Ports, settings: Settings) -> tuple[RunnerLoop, RemoveContainer]:
    own, limits = settings.runner, DriveLimits()
    store, runtime, clock = ports.unit_of_work, ports.runtime, ports.clock
    node_lease = ports.lease(f"node/{own.node_id}", own.lease_ttl)
    remove = RemoveContainer(store, runtime)
    drive = DriveAttempt(
        runtime=runtime,
        prepare=PrepareContainer(
            runtime, ports.artifacts, MODEL_SERVERS, replica_stop_grace=limits.replica_stop_grace
        ),
        store_outputs=StoreOutputs(
            runtime,
            ports.artifacts,
            files_max=own.output_files_max,
            bytes_max=own.output_bytes_max,
        ),
        record=RecordAttempt(store),
        probe=ports.probe,
        traces=ports.traces,
        node_lease=node_lease,
        clock=clock,
        limits=limits,
    )
    loop = RunnerLoop(
        node=KeepNode(
            store,
            NodeId(own.node_id),
            Resources(own.cpu_millicores, own.memory_bytes, own.gpu_count),
            runtime.capabilities.runtime,
        ),
        drive=drive,
        clean_up=CleanUpContainers(
            store,
            runtime,
            node_lease,
            clock,
            kept_after_end=own.kept_after_end,
            unknown_kept=own.unknown_kept,
            stray_grace=own.stray_grace,
            batch_max=own.clean_up_batch_max,
            together_max=own.clean_up_together_max,
        ),
        watch=RuntimeWatch(runtime, own.runtime_ping_timeout),
        lease=node_lease,
        waking=Waking(own.look_interval_max),
        intervals=RunnerIntervals(clean_up=own.clean_up_interval),
    )
    return loop, remove


def _supervisor(app: App, rpcs: RpcLoop, ports: Ports, settings: Settings) -> Supervisor:
    """Give every loop its place in the shutdown; leases go last."""
    relay = Relay(
        ports.engine,
        CHASSIS,
        ports.producer,
        holder=ports.ids.new("proc"),
        clock=ports.clock,
        idle=ports.database.idle,
    )
    ports.database.add_listener(relay.wake)
    ports.unit_of_work.add_listener(app.alarms.ring)

    async def follow_log_streams(stopping: asyncio.Event) -> None:
        # A group of its own for each node: whose container it is, only the node knows.
        group = f"{SERVICE}-runner-{settings.runner.node_id}"
        async with open_subscription(
            settings.kafka, group=group, topics=[log_stream.TOPIC], client_id=SERVICE
        ) as subscription:
            consumer = EventConsumer(
                subscription,
                app.log_stream,
                dead_letters=ports.producer,
                dead_letter_topic=DEAD_LETTERS,
                service=SERVICE,
                group=group,
            )
            await consumer.run(stopping)

    supervisor = Supervisor()
    supervisor.add("grpc", rpcs.run, Stage.INTAKE)
    supervisor.add("tenants", app.tenants.run, Stage.INTAKE)
    supervisor.add("log-stream", follow_log_streams, Stage.INTAKE)
    supervisor.add("scheduling", app.scheduling.run, Stage.INTAKE)
    supervisor.add("suspensions", app.suspensions.run, Stage.INTAKE)
    supervisor.add("purges", app.purges.run, Stage.INTAKE)
    supervisor.add("deployments", app.reconciling.run, Stage.INTAKE)
    supervisor.add("runner", app.runner.run, Stage.WORK)
    supervisor.add("container-runtime", ports.runtime.follow, Stage.RELAY)
    supervisor.add("relay", relay.run, Stage.RELAY)
    supervisor.add("janitor", Janitor(ports.engine, CHASSIS).run, Stage.RELAY)
    supervisor.add("scheduling-lease", app.scheduling.lease.run, Stage.LAST)
    supervisor.add("node-lease", app.runner.lease.run, Stage.LAST)
    return supervisor


@asynccontextmanager
async def _open_runtime(settings: Settings, clock: Clock) -> AsyncIterator[ContainerRuntime]:
    runtime, state_root = settings.runtime, settings.state_root
    environment = {"MODELYARD_STATE_ROOT": state_root} if state_root else {}
    if isinstance(runtime, ProcessRuntimeSettings):
        yield _process_runtime(runtime, environment)
        return
    async with open_docker_runtime(
        runtime.url,
        DockerOptions(
            scope=runtime.scope,
            containers_root=runtime.containers_root,
            images=runtime.images,
            is_host_fenced=runtime.is_host_fenced,
            pull_timeout=runtime.pull_timeout,
            # Only root can give a program's files to another user.
            users=Users(runtime.uid_first, runtime.uid_count)
            if os.geteuid() == 0
            else Users(os.geteuid(), 1),
            hardening=Hardening(
                pids_max=runtime.pids_max,
                open_files_max=runtime.open_files_max,
                tmp_bytes=runtime.tmp_bytes,
                shared_memory_bytes=runtime.shared_memory_bytes,
                log_file_bytes=runtime.log_file_bytes,
                log_files_max=runtime.log_files_max,
            ),
        ),
        clock=clock,
        call_timeout=runtime.call_timeout,
        work_timeout=runtime.work_timeout,
    ) as docker:
        yield docker


def _process_runtime(
    runtime: ProcessRuntimeSettings, environment: Mapping[str, str]
) -> ProcessRuntime:
    if not runtime.allow_unisolated:
        raise ValueError(
            "the process runtime isolates nothing: say MODELYARD_RUNTIME__ALLOW_UNISOLATED=true"
        )
    return ProcessRuntime(
        runtime.containers_root,
        images=runtime.images,
        allow_mixed_tenants=runtime.allow_mixed_tenants,
        environment=environment,
    )
