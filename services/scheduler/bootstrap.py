"""The scheduler's wiring: settings → ports → use cases → RPCs → loops."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
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
    queue_service_pb2_grpc,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.clock import Clock, SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.db.janitor import Janitor
from services.chassis.db.lease import LeaseKeeper, Leases, PostgresLeases, Recurrence
from services.chassis.db.outbox import PostgresOutbox
from services.chassis.db.relay import Relay
from services.chassis.db.unit_of_work import PostgresUnitOfWork as ChassisUnitOfWork
from services.chassis.errors import Unavailable
from services.chassis.events.consumer import EventConsumer, Handler
from services.chassis.events.kafka_consumer import open_reader, open_subscription
from services.chassis.events.kafka_producer import KafkaProducer, open_producer
from services.chassis.events.projection import CompactedProjection, OpenReader
from services.chassis.events.sweep import Sweep, add_sweep
from services.chassis.ids import Ids, TimeOrderedIds
from services.chassis.lifecycle import Readiness, Stage, Supervisor, run_until_stopped
from services.chassis.purges import PurgesLoop
from services.chassis.retry import chance
from services.chassis.rpc.callers import Callers, Grant
from services.chassis.rpc.client import Edge, open_channel
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.rpc.server import RpcLoop
from services.chassis.telemetry.logging import set_up_logging
from services.chassis.telemetry.tracing import open_tracing
from services.chassis.waking import Waking
from services.chassis.web.operations import serve_operations
from services.scheduler.adapters.gateway_client import GatewayTenants, open_tenant_list
from services.scheduler.adapters.incarnations import living_as, release_leases_of_the_dead
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
from services.scheduler.domain.fleet.loss import Looks
from services.scheduler.domain.fleet.node import lease_name
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.tenants.tenant import TenantTable
from services.scheduler.entrypoints.consumers import log_stream, tenants
from services.scheduler.entrypoints.facts import event_of
from services.scheduler.entrypoints.grpc.deployments import DeploymentRpcs
from services.scheduler.entrypoints.grpc.jobs import JobRpcs
from services.scheduler.entrypoints.grpc.nodes import NodeRpcs
from services.scheduler.entrypoints.grpc.queues import QueueRpcs
from services.scheduler.entrypoints.loops.deployments import TendDeployments
from services.scheduler.entrypoints.loops.isolation import IsolationLoop
from services.scheduler.entrypoints.loops.leading import Candidacy, LeaderLoop, WhileLeading
from services.scheduler.entrypoints.loops.preemption import MakeRoom
from services.scheduler.entrypoints.loops.runner import RunnerIntervals, RunnerLoop
from services.scheduler.entrypoints.loops.runtime_watch import RuntimeWatch
from services.scheduler.entrypoints.loops.scheduling import SchedulingLoop
from services.scheduler.entrypoints.loops.submissions import Submissions
from services.scheduler.entrypoints.loops.waking import Alarms
from services.scheduler.settings import (
    ProcessRuntimeSettings,
    SchedulingSettings,
    Settings,
)
from services.scheduler.telemetry import JOBS_RELEASED, NODES_LOST
from services.scheduler.use_cases.attempts.clean_up_containers import CleanUpContainers
from services.scheduler.use_cases.attempts.drive_attempt import DriveAttempt, DriveLimits
from services.scheduler.use_cases.attempts.keep_node import KeepNode
from services.scheduler.use_cases.attempts.ports import (
    ArtifactStore,
    ContainerRuntime,
    ModelServer,
    NodeFiles,
    RunTraces,
    ServerProbe,
)
from services.scheduler.use_cases.attempts.prepare_container import PrepareContainer
from services.scheduler.use_cases.attempts.record_attempt import RecordAttempt
from services.scheduler.use_cases.attempts.remove_container import RemoveContainer
from services.scheduler.use_cases.attempts.stop_containers import StopContainers
from services.scheduler.use_cases.attempts.store_checkpoint import StoreCheckpoint
from services.scheduler.use_cases.attempts.store_outputs import StoreOutputs
from services.scheduler.use_cases.deployments.create_deployment import CreateDeployment
from services.scheduler.use_cases.deployments.delete_deployment import DeleteDeployment
from services.scheduler.use_cases.deployments.explain_deployment import ExplainDeployment
from services.scheduler.use_cases.deployments.get_deployment import GetDeployment
from services.scheduler.use_cases.deployments.list_deployments import ListDeployments
from services.scheduler.use_cases.deployments.list_routes import ListRoutes
from services.scheduler.use_cases.deployments.reconcile_deployments import ReconcileDeployments
from services.scheduler.use_cases.deployments.republish_routes import RepublishRoutes
from services.scheduler.use_cases.fleet.change_node import ChangeNode
from services.scheduler.use_cases.fleet.declare_nodes_lost import DeclareNodesLost
from services.scheduler.use_cases.fleet.drain_nodes import DrainNodes
from services.scheduler.use_cases.fleet.list_nodes import ListNodes
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.jobs.check_job import CheckJob
from services.scheduler.use_cases.jobs.checks import JobChecks
from services.scheduler.use_cases.jobs.delete_ended_jobs import DeleteEndedJobs
from services.scheduler.use_cases.jobs.end_arrays import EndArrays
from services.scheduler.use_cases.jobs.expire_queued_jobs import ExpireQueuedJobs
from services.scheduler.use_cases.jobs.explain_job import ExplainJob
from services.scheduler.use_cases.jobs.get_job import GetJob
from services.scheduler.use_cases.jobs.get_stats import GetStats
from services.scheduler.use_cases.jobs.list_attempts import ListAttempts
from services.scheduler.use_cases.jobs.list_jobs import ListJobs
from services.scheduler.use_cases.jobs.release_jobs import ReleaseJobs
from services.scheduler.use_cases.jobs.stop_elements import StopElements
from services.scheduler.use_cases.jobs.submit_jobs import SubmitJobs
from services.scheduler.use_cases.ports import ModelCatalog, UnitOfWork
from services.scheduler.use_cases.queues.list_queues import ListQueues
from services.scheduler.use_cases.queues.pause_queue import PauseQueue
from services.scheduler.use_cases.queues.resume_queue import ResumeQueue
from services.scheduler.use_cases.scheduling.age_jobs import AgeJobs
from services.scheduler.use_cases.scheduling.leaders_memory import LeadersMemory
from services.scheduler.use_cases.scheduling.preempt_jobs import PreemptJobs
from services.scheduler.use_cases.scheduling.reason import LookAtLine
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import RunSchedulingCycle
from services.scheduler.use_cases.tenants.purge_node_files import PurgeNodeFiles
from services.scheduler.use_cases.tenants.purge_tenants import PurgeTenants
from services.scheduler.use_cases.tenants.stop_suspended_jobs import StopSuspendedJobs

SERVICE: Final = "scheduler"
TENANTS: Final = "tenants"
JOB_SERVICE: Final = "modelyard.scheduler.v1.JobService"
DEPLOYMENT_SERVICE: Final = "modelyard.scheduler.v1.DeploymentService"
NODE_SERVICE: Final = "modelyard.scheduler.v1.NodeService"
QUEUE_SERVICE: Final = "modelyard.scheduler.v1.QueueService"
DEAD_LETTERS: Final = "modelyard.scheduler.dead-letter.v1"
PROCESSES_FOLDER: Final = ".processes"
"""Among what is fetched, since that is this node's own disk."""
MODEL_SERVERS: Final[Mapping[str, ModelServer]] = {"modelyard/serve-sklearn": MlServerSklearn()}
REQUIRED_SCOPES: Final[Mapping[str, str]] = {
    f"/{JOB_SERVICE}/SubmitJob": "jobs:write",
    f"/{JOB_SERVICE}/CheckJob": "jobs:write",
    f"/{JOB_SERVICE}/ExplainJob": "jobs:read",
    f"/{JOB_SERVICE}/GetJob": "jobs:read",
    f"/{JOB_SERVICE}/ListJobs": "jobs:read",
    f"/{JOB_SERVICE}/ListAttempts": "jobs:read",
    f"/{JOB_SERVICE}/GetStats": "jobs:read",
    f"/{JOB_SERVICE}/CancelJob": "jobs:write",
    f"/{DEPLOYMENT_SERVICE}/CreateDeployment": "deployments:write",
    f"/{DEPLOYMENT_SERVICE}/GetDeployment": "deployments:read",
    f"/{DEPLOYMENT_SERVICE}/ExplainDeployment": "deployments:read",
    f"/{DEPLOYMENT_SERVICE}/ListDeployments": "deployments:read",
    f"/{DEPLOYMENT_SERVICE}/DeleteDeployment": "deployments:write",
    f"/{DEPLOYMENT_SERVICE}/ListRoutes": "routes:read",
    f"/{NODE_SERVICE}/ListNodes": "nodes:read",
    f"/{NODE_SERVICE}/CordonNode": "nodes:write",
    f"/{NODE_SERVICE}/DrainNode": "nodes:write",
    f"/{NODE_SERVICE}/UncordonNode": "nodes:write",
    f"/{QUEUE_SERVICE}/ListQueues": "jobs:read",
    f"/{QUEUE_SERVICE}/PauseQueue": "queues:write",
    f"/{QUEUE_SERVICE}/ResumeQueue": "queues:write",
}
CALLERS: Final[Callers] = {
    "api-gateway": [
        Grant(
            frozenset({"key", "user"}),
            frozenset(
                {
                    "jobs:read",
                    "jobs:write",
                    "deployments:read",
                    "deployments:write",
                    "nodes:read",
                    "nodes:write",
                    "queues:write",
                }
            ),
        ),
        Grant(frozenset({"api-gateway"}), frozenset({"routes:read"}), is_for_tenants=False),
    ],
}


@dataclass(frozen=True, slots=True)
class Ports:
    """What use cases and loops need from outside."""

    clock: Clock
    ids: Ids
    chance: Callable[[], float]
    holder: str
    """This process incarnation, as holder of leases."""
    unit_of_work: UnitOfWork
    leases: Leases
    open_reader: OpenReader
    models: ModelCatalog
    artifacts: ArtifactStore
    node_files: NodeFiles
    runtime: ContainerRuntime
    probe: ServerProbe
    traces: RunTraces
    list_tenants: GatewayTenants | None

    def lease(self, name: str, ttl: timedelta) -> LeaseKeeper:
        """Return the keeper of a lease for this process incarnation."""
        return LeaseKeeper(self.leases, name, holder=self.holder, ttl=ttl, clock=self.clock)


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """The technology under the ports, for the loops and the server that the chassis has."""

    engine: AsyncEngine
    database: ChassisUnitOfWork
    unit_of_work: PostgresUnitOfWork
    producer: KafkaProducer
    verifier: TokenVerifier


@dataclass(frozen=True, slots=True)
class App:
    """What answers calls and events, and what runs by itself."""

    jobs: JobRpcs
    deployments: DeploymentRpcs
    nodes: NodeRpcs
    queues: QueueRpcs
    scheduling: SchedulingLoop
    candidacy: Candidacy
    reconciling: LeaderLoop
    submissions: Submissions
    suspensions: LeaderLoop
    drains: LeaderLoop
    queue_timeouts: LeaderLoop
    releases: LeaderLoop
    ages: LeaderLoop | None
    element_stops: LeaderLoop
    array_ends: LeaderLoop
    losses: LeaderLoop
    retention: LeaderLoop
    purges: PurgesLoop
    file_purges: PurgesLoop
    runner: RunnerLoop
    isolation: IsolationLoop
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
        queue_service_pb2_grpc.add_QueueServiceServicer_to_server(self.queues, server)

    @property
    def alarms(self) -> Alarms:
        """Return what lets the loops look when a fact is committed."""
        return Alarms(
            self.scheduling.waking,
            self.reconciling.waking,
            self.runner.waking,
            self.releases.waking,
        )


async def serve(settings: Settings) -> int:
    """Run the scheduler until it is told to stop; return its exit code."""
    set_up_logging(SERVICE, level=settings.telemetry.log_level)
    with open_tracing(SERVICE, settings.telemetry):
        async with AsyncExitStack() as stack:
            ports, infrastructure = await stack.enter_async_context(production_ports(settings))
            app = wire(ports, settings)
            rpcs = RpcLoop(
                settings.grpc,
                register=app.register,
                services=(JOB_SERVICE, DEPLOYMENT_SERVICE, NODE_SERVICE, QUEUE_SERVICE),
                verifier=infrastructure.verifier,
                required_scopes=REQUIRED_SCOPES,
                callers=CALLERS,
                drain_max=settings.shutdown.stage_timeout / 2,
            )

            async def tenants_known() -> None:
                if not app.tenants.is_caught_up:
                    raise Unavailable("tenants")

            readiness = Readiness()
            readiness.add("grpc", rpcs.ping)
            readiness.add("database", infrastructure.database.ping)
            readiness.add("kafka", infrastructure.producer.ping)
            readiness.add("tenants", tenants_known)
            readiness.advise("container-runtime", app.runner.watch.check)
            await stack.enter_async_context(serve_operations(settings.operations, readiness))
            supervisor = _supervisor(app, rpcs, ports, infrastructure, settings)
            add_sweep(supervisor, readiness, app.tenant_list, what=TENANTS)
            return await run_until_stopped(supervisor, readiness, settings.shutdown)


@asynccontextmanager
async def production_ports(settings: Settings) -> AsyncIterator[tuple[Ports, Infrastructure]]:
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
        registry = await stack.enter_async_context(
            open_channel(settings.registry, callee="model-registry", signer=signer)
        )
        list_tenants = await stack.enter_async_context(
            open_tenant_list(settings.gateway, signer=signer)
        )
        probe = await stack.enter_async_context(open_server_probe(timeout=runner.probe_timeout))
        cache = NodeCache(runner.node_cache_root, bytes_max=runner.node_cache_bytes_max)
        database = ChassisUnitOfWork(engine, CHASSIS, source=f"/{SERVICE}", clock=clock, ids=ids)
        unit_of_work = PostgresUnitOfWork(database, event_of)
        leases, holder = PostgresLeases(engine, CHASSIS), ids.new("proc")
        processes = runner.node_cache_root / PROCESSES_FOLDER
        stack.enter_context(living_as(holder, processes))
        await release_leases_of_the_dead(processes, leases)
        ports = Ports(
            clock=clock,
            ids=ids,
            chance=chance,
            holder=holder,
            unit_of_work=unit_of_work,
            leases=leases,
            open_reader=open_reader,
            models=RegistryModels(registry, Edge.to("model-registry"), settings.registry.deadline),
            artifacts=RegistryArtifacts(
                registry,
                # Its own edge: slow transfers must not open the breaker of CreateDeployment.
                Edge.to("model-registry-artifacts"),
                cache,
                transfer_timeout=runner.transfer_timeout,
            ),
            node_files=cache,
            runtime=await stack.enter_async_context(_open_runtime(settings, clock)),
            probe=probe,
            traces=TelemetryRunTraces(),
            list_tenants=list_tenants,
        )
        verifier = TokenVerifier.load(SERVICE, settings.identity, clock)
        yield ports, Infrastructure(engine, database, unit_of_work, producer, verifier)


def wire(ports: Ports, settings: Settings) -> App:
    """Put use cases on ports."""
    store, ids = ports.unit_of_work, ports.ids
    scheduling, deployments = settings.scheduling, settings.deployments
    leader = ports.lease("scheduling", scheduling.lease_ttl)
    known = TenantTable(is_caught_up=False, is_whole=ports.list_tenants is None)
    cycle, reconciling, suspending = (Waking(scheduling.cycle_interval_max) for _ in range(3))
    draining = Waking(scheduling.drains_interval)
    purging, purging_files = (Waking(settings.purge.interval) for _ in range(2))

    def tenant_changed() -> None:
        for concerned in (cycle, reconciling, suspending, purging, purging_files):
            concerned.wake()

    def node_changed() -> None:
        for concerned in (cycle, reconciling, draining):
            concerned.wake()

    def tenants_caught_up() -> None:
        known.catch_up()
        cycle.wake()

    def tenants_complete() -> None:
        known.complete()
        cycle.wake()

    apply_tenants = tenants.ApplyTenants(known, tenant_changed)
    projection = CompactedProjection(
        settings.kafka,
        tenants.TOPIC,
        apply_tenants,
        on_caught_up=tenants_caught_up,
        client_id=SERVICE,
        open_reader=ports.open_reader,
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
    record = RecordAttempt(
        store, retried_jobs_max=settings.admission.retried_jobs_max, chance=ports.chance
    )
    runner, isolation, remove_container = _wire_runner(ports, settings, record)
    checks = _wire_checks(settings, known)
    submissions = _wire_submissions(ports, settings, checks)
    return App(
        jobs=_wire_jobs(ports, settings, known, checks, submissions),
        submissions=submissions,
        deployments=_wire_deployments(ports, settings, known),
        nodes=NodeRpcs(
            ListNodes(store, scheduling.node_silence_max),
            ChangeNode(store, scheduling.node_silence_max, node_changed),
        ),
        queues=QueueRpcs(ListQueues(store), PauseQueue(store), ResumeQueue(store, cycle.wake)),
        scheduling=SchedulingLoop(
            RunSchedulingCycle(
                store,
                known,
                ids,
                LeadersMemory(store, scheduling.usage_half_life),
                heads_max=scheduling.cycle_heads_max,
                node_silence_max=scheduling.node_silence_max,
                soonest_max=scheduling.cycle_soonest_max,
                makes_room=scheduling.preemption_enabled,
            ),
            leader,
            cycle,
            lambda: known.is_caught_up,
            runner.offer,
            _wire_preemption(ports, scheduling) if scheduling.preemption_enabled else None,
        ),
        candidacy=Candidacy(leader, projection, lets_others=2 * scheduling.lease_ttl),
        reconciling=LeaderLoop(
            WhileLeading(
                TendDeployments(
                    ReconcileDeployments(
                        store,
                        known,
                        deployments_per_pass_max=deployments.deployments_per_pass_max,
                        routes_settle=deployments.routes_settle,
                    ),
                    RepublishRoutes(store, batch_max=deployments.republish_batch_max),
                    Recurrence(deployments.republish_interval, ports.clock),
                ),
                leader,
            ),
            reconciling,
            done="routes published again",
            failed="reconciling deployments failed",
        ),
        suspensions=LeaderLoop(
            WhileLeading(
                StopSuspendedJobs(
                    store, known, jobs_per_pass_max=scheduling.suspended_jobs_per_pass_max
                ),
                leader,
            ),
            suspending,
            done="jobs of suspended tenants asked to stop",
            failed="stopping jobs of suspended tenants failed",
        ),
        drains=LeaderLoop(
            WhileLeading(
                DrainNodes(store, jobs_per_pass_max=scheduling.drained_jobs_per_pass_max), leader
            ),
            draining,
            done="jobs on nodes that are drained asked to stop",
            failed="draining nodes failed",
        ),
        queue_timeouts=LeaderLoop(
            WhileLeading(
                ExpireQueuedJobs(store, jobs_per_pass_max=scheduling.expired_jobs_per_pass_max),
                leader,
            ),
            Waking(scheduling.queue_timeouts_interval),  # nothing else wakes it
            done="jobs stood in line for too long",
            failed="ending jobs in line failed",
            pass_max=scheduling.expired_jobs_per_pass_max,
        ),
        releases=LeaderLoop(
            WhileLeading(
                ReleaseJobs(
                    store,
                    cycle.wake,
                    jobs_per_pass_max=scheduling.released_jobs_per_pass_max,
                ),
                leader,
            ),
            Waking(scheduling.releases_interval),
            done="jobs told of ends that they waited for",
            failed="telling jobs of ends failed",
            found=JOBS_RELEASED,
            pass_max=scheduling.released_jobs_per_pass_max,
        ),
        ages=_wire_ages(store, known, scheduling, leader),
        element_stops=LeaderLoop(
            WhileLeading(
                StopElements(store, jobs_per_pass_max=scheduling.elements_per_pass_max), leader
            ),
            Waking(scheduling.arrays_interval),  # nothing else wakes it
            done="elements of cancelled arrays asked to stop",
            failed="stopping elements of arrays failed",
            pass_max=scheduling.elements_per_pass_max,
        ),
        array_ends=LeaderLoop(
            WhileLeading(
                EndArrays(store, jobs_per_pass_max=scheduling.arrays_per_pass_max), leader
            ),
            Waking(scheduling.arrays_interval),  # nothing else wakes it
            done="arrays ended",
            failed="ending arrays failed",
            pass_max=scheduling.arrays_per_pass_max,
        ),
        losses=LeaderLoop(
            WhileLeading(
                DeclareNodesLost(
                    store,
                    record,
                    Looks(scheduling.node_lost_after, scheduling.lost_looks_min),
                    nodes_per_pass_max=scheduling.lost_nodes_per_pass_max,
                ),
                leader,
            ),
            Waking(scheduling.lost_nodes_interval),  # nothing else wakes it: each look counts
            done="nodes lost",
            failed="looking for lost nodes failed",
            found=NODES_LOST,
        ),
        retention=LeaderLoop(
            WhileLeading(
                DeleteEndedJobs(
                    store,
                    settings.retention.ended_jobs_kept,
                    jobs_per_pass_max=settings.retention.ended_jobs_per_pass_max,
                ),
                leader,
            ),
            Waking(settings.retention.interval),  # nothing else wakes it
            done="jobs deleted that ended long ago",
            failed="deleting ended jobs failed",
        ),
        purges=PurgesLoop(
            WhileLeading(
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
        file_purges=PurgesLoop(
            PurgeNodeFiles(
                ports.node_files, known, files_per_pass_max=settings.purge.files_per_pass_max
            ),
            purging_files,
            what="files",
        ),
        runner=runner,
        isolation=isolation,
        tenants=projection,
        tenant_list=tenant_list,
        log_stream=log_stream.handlers(remove_container),
    )


def _wire_preemption(ports: Ports, scheduling: SchedulingSettings) -> MakeRoom:
    return MakeRoom(
        PreemptJobs(ports.unit_of_work, scheduling.node_silence_max),
        Recurrence(scheduling.preemption_interval, ports.clock),
    )


def _wire_ages(
    store: UnitOfWork, known: TenantTable, scheduling: SchedulingSettings, leader: LeaseKeeper
) -> LeaderLoop | None:
    if scheduling.priority_aging is None:
        return None
    return LeaderLoop(
        WhileLeading(
            AgeJobs(
                store,
                known,
                after=scheduling.priority_aging,
                jobs_per_pass_max=scheduling.aged_jobs_per_pass_max,
            ),
            leader,
        ),
        Waking(scheduling.aging_interval),  # nothing else wakes it
        done="priorities of jobs that waited for long are larger",
        failed="adding to priorities failed",
        pass_max=scheduling.aged_jobs_per_pass_max,
    )


def _wire_checks(settings: Settings, known: TenantTable) -> JobChecks:
    admission = settings.admission
    return JobChecks(
        known,
        queued_jobs_max=admission.queued_jobs_max,
        retry_after=admission.queue_retry_after,
        images=settings.runtime.images.keys(),
    )


def _wire_submissions(ports: Ports, settings: Settings, checks: JobChecks) -> Submissions:
    admission = settings.admission
    return Submissions(
        SubmitJobs(ports.unit_of_work, ports.ids, checks),
        together_max=admission.submissions_together_max,
        waiting_max=admission.submissions_waiting_max,
        retry_after=admission.queue_retry_after,
    )


def _look(settings: Settings, known: TenantTable) -> LookAtLine:
    scheduling = settings.scheduling
    return LookAtLine(
        known,
        scheduling.cycle_heads_max,
        scheduling.node_silence_max,
        scheduling.cycle_soonest_max,
    )


def _wire_jobs(
    ports: Ports,
    settings: Settings,
    known: TenantTable,
    checks: JobChecks,
    submissions: Submissions,
) -> JobRpcs:
    store = ports.unit_of_work
    silence_max = settings.scheduling.node_silence_max
    return JobRpcs(
        submit_job=submissions,
        check_job=CheckJob(store, checks),
        get_job=GetJob(store, known, silence_max),
        explain_job=ExplainJob(store, known, _look(settings, known)),
        list_jobs=ListJobs(store, known, silence_max),
        list_attempts=ListAttempts(store),
        get_stats=GetStats(store),
        cancel_job=CancelJob(store),
    )


def _wire_deployments(ports: Ports, settings: Settings, known: TenantTable) -> DeploymentRpcs:
    store = ports.unit_of_work
    silence_max = settings.scheduling.node_silence_max
    return DeploymentRpcs(
        create_deployment=CreateDeployment(
            store,
            known,
            ports.models,
            ports.ids,
            replicas_max=settings.admission.replicas_max,
            images=settings.runtime.images.keys() & MODEL_SERVERS.keys(),
        ),
        get_deployment=GetDeployment(store, known, silence_max),
        explain_deployment=ExplainDeployment(store, known, _look(settings, known)),
        list_deployments=ListDeployments(store, known, silence_max),
        delete_deployment=DeleteDeployment(store),
        list_routes=ListRoutes(store),
    )


def _wire_runner(
    ports: Ports, settings: Settings, record: RecordAttempt
) -> tuple[RunnerLoop, IsolationLoop, RemoveContainer]:
    own, limits = settings.runner, DriveLimits()
    store, runtime, clock = ports.unit_of_work, ports.runtime, ports.clock
    node_lease = ports.lease(lease_name(NodeId(own.node_id)), own.lease_ttl)
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
        store_checkpoint=StoreCheckpoint(
            runtime,
            ports.artifacts,
            files_max=own.checkpoint_files_max,
            bytes_max=own.checkpoint_bytes_max,
        ),
        record=record,
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
            allows_mixed_tenants=runtime.capabilities.allows_mixed_tenants,
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
    isolation = IsolationLoop(
        StopContainers(runtime, own.isolation_stop_grace, together_max=own.clean_up_together_max),
        node_lease,
        own.isolation_stop_after,
    )
    return loop, isolation, remove


def _supervisor(
    app: App, rpcs: RpcLoop, ports: Ports, infrastructure: Infrastructure, settings: Settings
) -> Supervisor:
    """Give every loop its place in the shutdown; leases go last."""
    relay = Relay(
        PostgresOutbox(infrastructure.engine, CHASSIS),
        ports.leases,
        infrastructure.producer,
        holder=ports.holder,
        clock=ports.clock,
        idle=infrastructure.database.idle,
    )
    infrastructure.database.add_listener(relay.wake)
    infrastructure.unit_of_work.add_listener(app.alarms.ring)

    async def follow_log_streams(stopping: asyncio.Event) -> None:
        # A group of its own for each node: whose container it is, only the node knows.
        group = f"{SERVICE}-runner-{settings.runner.node_id}"
        async with open_subscription(
            settings.kafka, group=group, topics=[log_stream.TOPIC], client_id=SERVICE
        ) as subscription:
            consumer = EventConsumer(
                subscription,
                app.log_stream,
                dead_letters=infrastructure.producer,
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
    supervisor.add("drains", app.drains.run, Stage.INTAKE)
    supervisor.add("queue-timeouts", app.queue_timeouts.run, Stage.INTAKE)
    supervisor.add("releases", app.releases.run, Stage.INTAKE)
    if app.ages is not None:
        supervisor.add("ages", app.ages.run, Stage.INTAKE)
    supervisor.add("element-stops", app.element_stops.run, Stage.INTAKE)
    supervisor.add("array-ends", app.array_ends.run, Stage.INTAKE)
    supervisor.add("losses", app.losses.run, Stage.INTAKE)
    supervisor.add("retention", app.retention.run, Stage.INTAKE)
    supervisor.add("purges", app.purges.run, Stage.INTAKE)
    supervisor.add("file-purges", app.file_purges.run, Stage.INTAKE)
    supervisor.add("deployments", app.reconciling.run, Stage.INTAKE)
    # After the calls that it answers.
    supervisor.add("submissions", app.submissions.run, Stage.WORK)
    supervisor.add("runner", app.runner.run, Stage.WORK)
    supervisor.add("isolation", app.isolation.run, Stage.WORK)
    supervisor.add("container-runtime", ports.runtime.follow, Stage.RELAY)
    supervisor.add("relay", relay.run, Stage.RELAY)
    supervisor.add("janitor", Janitor(infrastructure.engine, CHASSIS).run, Stage.RELAY)
    supervisor.add("scheduling-lease", app.candidacy.run, Stage.LAST)
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
