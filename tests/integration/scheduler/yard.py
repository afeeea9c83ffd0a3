"""A scheduler on a real database, moved by hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from modelyard.scheduler.v1 import deployment_events_pb2, job_events_pb2
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.clock import SystemClock
from services.chassis.db.lease import HeldLease, LeaseKeeper, PostgresLeases
from services.chassis.db.unit_of_work import PostgresUnitOfWork as ChassisUnitOfWork
from services.chassis.errors import ModelyardError, NotFound
from services.chassis.ids import TimeOrderedIds
from services.chassis.tenancy import TenantId
from services.chassis.transaction_mark import in_transaction
from services.scheduler.adapters.postgres.fleet import PostgresNodes
from services.scheduler.adapters.postgres.tables import (
    ATTEMPTS,
    CHASSIS,
    JOBS,
    LINE_COUNTS,
    NODES,
    REPLICAS,
)
from services.scheduler.adapters.postgres.unit_of_work import PostgresUnitOfWork
from services.scheduler.domain.attempts.attempt import LogLocation
from services.scheduler.domain.attempts.work import AttemptWork
from services.scheduler.domain.deployments.model import ModelPin, ModelReference
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import AttemptId, NodeId, ReplicaId
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.jobs.spec import JobSpec
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.tenants.tenant import Plan, Tenant, TenantTable
from services.scheduler.entrypoints.facts import event_of
from services.scheduler.use_cases.deployments.change_replica import change_replica
from services.scheduler.use_cases.deployments.create_deployment import CreateDeployment
from services.scheduler.use_cases.deployments.delete_deployment import DeleteDeployment
from services.scheduler.use_cases.deployments.explain_deployment import ExplainDeployment
from services.scheduler.use_cases.deployments.get_deployment import GetDeployment
from services.scheduler.use_cases.deployments.list_deployments import ListDeployments
from services.scheduler.use_cases.deployments.reconcile_deployments import ReconcileDeployments
from services.scheduler.use_cases.deployments.shown import ShownDeployment
from services.scheduler.use_cases.jobs.check_job import CheckJob
from services.scheduler.use_cases.jobs.checks import JobChecks
from services.scheduler.use_cases.jobs.explain_job import ExplainJob
from services.scheduler.use_cases.jobs.get_job import GetJob
from services.scheduler.use_cases.jobs.list_jobs import ListJobs
from services.scheduler.use_cases.jobs.submit_jobs import Submission, SubmitJobs
from services.scheduler.use_cases.ports import RequestKey
from services.scheduler.use_cases.queues.list_queues import ListQueues
from services.scheduler.use_cases.queues.pause_queue import PauseQueue
from services.scheduler.use_cases.queues.resume_queue import ResumeQueue
from services.scheduler.use_cases.scheduling.leaders_memory import LeadersMemory
from services.scheduler.use_cases.scheduling.reason import LookAtLine
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import (
    CycleReport,
    Outcome,
    RunSchedulingCycle,
)
from services.scheduler.use_cases.tenants.purge_tenants import PurgeTenants
from services.scheduler.use_cases.tenants.stop_suspended_jobs import StopSuspendedJobs
from tests.unit.scheduler.builders import (
    ACME,
    ENDING,
    NODE,
    NOW,
    TRACEPARENT,
    a_deployment_spec,
    a_pin,
    a_spec,
    resources,
)

NODE_SILENCE_MAX = timedelta(seconds=30)
ROUTES_SETTLE = timedelta(seconds=2)
SOONEST_MAX = 500


@dataclass(slots=True)
class ManualClock:
    """A clock that moves when told."""

    seconds: float = 0.0

    def now(self) -> Any:
        return NOW + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


@dataclass(slots=True)
class FakeCatalog:
    """A registry of one model."""

    pin: ModelPin = field(default_factory=a_pin)
    asked: list[ModelReference] = field(default_factory=list)

    async def resolve(self, reference: ModelReference) -> ModelPin:
        self.asked.append(reference)
        if reference.name != self.pin.model_name:
            raise NotFound("model", reference.name)
        return self.pin


IMAGES = {
    "modelyard/base",
    "modelyard/serve",
    "modelyard/serve-sklearn",
    "modelyard/train-sklearn",
}


class Yard:
    """Builders and views of one test's scheduler."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.clock = ManualClock()
        self.ids = TimeOrderedIds(SystemClock())
        self.database = ChassisUnitOfWork(
            engine, CHASSIS, source="/scheduler", clock=self.clock, ids=self.ids
        )
        self.store = PostgresUnitOfWork(self.database, event_of)
        self.catalog = FakeCatalog()
        self.tenants = TenantTable()
        checks = JobChecks(
            self.tenants, queued_jobs_max=3, retry_after=timedelta(seconds=5), images=IMAGES
        )
        self.submit_jobs = SubmitJobs(self.store, self.ids, checks)
        self.check_job = CheckJob(self.store, checks)
        self.run_cycle = RunSchedulingCycle(
            self.store,
            self.tenants,
            self.ids,
            LeadersMemory(self.store, timedelta(hours=24)),
            heads_max=50,
            node_silence_max=NODE_SILENCE_MAX,
            soonest_max=SOONEST_MAX,
        )
        self.create_deployment = CreateDeployment(
            self.store, self.tenants, self.catalog, self.ids, replicas_max=4, images=IMAGES
        )
        self.delete_deployment = DeleteDeployment(self.store)
        self.get_job = GetJob(self.store, self.tenants, NODE_SILENCE_MAX)
        look_at_line = LookAtLine(self.tenants, 50, NODE_SILENCE_MAX, SOONEST_MAX)
        self.explain_job = ExplainJob(self.store, self.tenants, look_at_line)
        self.explain_deployment = ExplainDeployment(self.store, self.tenants, look_at_line)
        self.list_jobs = ListJobs(self.store, self.tenants, NODE_SILENCE_MAX)
        self.list_queues = ListQueues(self.store)
        self.pause_queue = PauseQueue(self.store)
        self.resumed_count = 0
        self.resume_queue = ResumeQueue(self.store, self._resumed)
        self.get_deployment = GetDeployment(self.store, self.tenants, NODE_SILENCE_MAX)
        self.list_deployments = ListDeployments(self.store, self.tenants, NODE_SILENCE_MAX)
        self.reconcile = ReconcileDeployments(
            self.store, self.tenants, deployments_per_pass_max=10, routes_settle=ROUTES_SETTLE
        )
        self.purge_tenants = PurgeTenants(
            self.store, self.tenants, self.delete_deployment, owners_per_pass_max=2
        )
        self.stop_suspended_jobs = StopSuspendedJobs(self.store, self.tenants, jobs_per_pass_max=10)

    def _resumed(self) -> None:
        self.resumed_count += 1

    def lease_keeper(self, holder: str, *, ttl_s: float = 60) -> LeaseKeeper:
        """Return a process's keeper of the scheduling lease."""
        return LeaseKeeper(
            PostgresLeases(self.engine, CHASSIS),
            "scheduling",
            holder=holder,
            ttl=timedelta(seconds=ttl_s),
            clock=SystemClock(),
        )

    async def lease(self, *, holder: str = "proc_1", ttl_s: float = 60) -> HeldLease:
        """Take the scheduling lease, or renew it."""
        held = await self.lease_keeper(holder, ttl_s=ttl_s).acquire()
        assert held is not None
        return held

    def tenant(
        self,
        name: TenantId,
        *,
        is_suspended: bool = False,
        is_purged: bool = False,
        **plan: Any,
    ) -> None:
        """Hear of a tenant's next version."""
        self.tenants.apply(
            Tenant(
                name,
                version=self.tenants.get(name).version + 1,
                is_suspended=is_suspended or is_purged,
                is_purged=is_purged,
                reason="unpaid" if is_suspended else "",
                changed_at=self.clock.now(),
                plan=Plan(**plan),
            )
        )

    async def a_node(
        self,
        capacity: Resources | None = None,
        *,
        name: str = NODE,
        allows_mixed_tenants: bool = True,
    ) -> NodeId:
        async with self.store.system(because="test") as tx:
            await tx.nodes.register(
                NodeId(name),
                capacity or resources(cpu=4, memory=8),
                runtime="process",
                allows_mixed_tenants=allows_mixed_tenants,
            )
        return NodeId(name)

    async def are_silent(self, silence: timedelta) -> None:
        """Let it be so long by the database's clock that the nodes were heard of."""
        async with self.engine.begin() as connection:
            heard_of_at = NODES.c.heartbeat_at - silence
            await connection.execute(sa.update(NODES).values(heartbeat_at=heard_of_at))

    async def beats(self, *, is_runtime_up: bool) -> None:
        """Let the node say that it is there, and whether its runtime is."""
        async with self.store.system(because="test") as tx:
            await tx.nodes.heartbeat(NODE, is_runtime_up=is_runtime_up)

    async def node(self) -> Node:
        async with self.store.system(because="test") as tx:
            return await tx.nodes.get(NODE)

    async def a_job(self, *, tenant: TenantId = ACME, **changes: Any) -> Job:
        return await self.submit(a_spec(**changes), tenant=tenant)

    async def submit_job(
        self, tenant: TenantId, spec: JobSpec, *, key: RequestKey | None, traceparent: str | None
    ) -> Job:
        """Submit one job, alone."""
        [answer] = await self.submit_jobs([Submission(tenant, spec, key, traceparent)])
        if isinstance(answer, ModelyardError):
            raise answer
        return answer

    async def submit(self, spec: JobSpec, *, tenant: TenantId = ACME) -> Job:
        return await self.submit_job(tenant, spec, key=None, traceparent=TRACEPARENT)

    async def a_deployment(self, **changes: Any) -> ShownDeployment:
        return await self.create_deployment(
            ACME, a_deployment_spec(**changes), key=None, traceparent=TRACEPARENT
        )

    async def cycle(self) -> list[tuple[str, Outcome]]:
        """Run one cycle as the leader; tell who was placed."""
        report: CycleReport = await self.run_cycle(await self.lease())
        return [(placement.head.id, outcome) for placement, outcome in report.outcomes]

    async def job(self, job_id: str, *, tenant: TenantId = ACME) -> Job:
        async with self.store(tenant) as tx:
            return await tx.jobs.get(job_id)  # type: ignore[arg-type]

    async def open_work(self, node_id: NodeId = NODE) -> Sequence[AttemptWork]:
        async with self.store.system(because="test") as tx:
            return await tx.attempts.open_on_node(node_id)

    async def start(self, attempt_id: AttemptId) -> None:
        """Do what the runner does when a container runs."""
        async with self.store.system(because="test") as tx:
            attempt = await tx.attempts.get(attempt_id)
            attempt, fact = attempt.started(LogLocation("x/container.log"), at=tx.now)
            await tx.attempts.save(attempt)
            tx.emit(fact)

    async def end(self, attempt_id: AttemptId) -> None:
        """Do what the runner does when a container has ended: capacity goes back."""
        async with self.store.system(because="test") as tx:
            attempt = await tx.attempts.get(attempt_id)
            attempt, fact = (
                attempt.exited(1, ENDING, at=tx.now)
                if attempt.started_at
                else attempt.closed(ENDING, at=tx.now)
            )
            await tx.attempts.save(attempt)
            await tx.nodes.release(attempt.node_id, attempt.resources)
            tx.emit(fact)

    async def ready(self, replica_id: ReplicaId, address: str) -> None:
        """Do what the runner does when a model server answers."""
        async with self.store.system(because="test") as tx:
            replica = await tx.replicas.get(replica_id)
            await change_replica(tx, replica.ready(address, at=tx.now))

    async def replica_ended(self, replica_id: ReplicaId) -> None:
        """Do what the runner does when a model server has ended."""
        async with self.store.system(because="test") as tx:
            replica = await tx.replicas.get(replica_id)
            assert replica.attempt_id is not None
            deployment = await tx.deployments.get(replica.deployment_id)
            ended = replica.ended(reason="exit code 1", at=tx.now, comes_back=deployment.is_wanted)
            await change_replica(tx, ended)
        await self.end(replica.attempt_id)

    async def reconciled(self) -> int:
        """Run one pass as the leader."""
        return await self.reconcile(await self.lease())

    async def events(self, key: str) -> list[sa.RowMapping]:
        """Return the outbox rows of an aggregate, in order."""
        async with self.engine.connect() as connection:
            found = await connection.execute(
                sa.select(CHASSIS.outbox)
                .where(CHASSIS.outbox.c.aggregateid == key)
                .order_by(CHASSIS.outbox.c.seq)
            )
            return list(found.mappings())

    async def event_types(self, key: str) -> list[str]:
        return [
            event["type"].removeprefix("modelyard.").removesuffix(".v1")
            for event in await self.events(key)
        ]

    async def job_facts(self, job_id: str) -> list[job_events_pb2.JobTransitioned]:
        return [
            job_events_pb2.JobTransitioned.FromString(event["payload"])
            for event in await self.events(job_id)
        ]

    async def routes(self, deployment_id: str) -> list[deployment_events_pb2.RoutingEntry]:
        return [
            deployment_events_pb2.RoutingEntry.FromString(event["payload"])
            for event in await self.events(deployment_id)
            if event["aggregatetype"] == "modelyard.replica.endpoints.v1"
        ]

    async def used(self, node_id: NodeId = NODE) -> Resources:
        async with self.store.system(because="test") as tx:
            return (await tx.nodes.get(node_id)).used

    async def check(self) -> None:
        """Check what must hold whatever happened."""
        async with self.engine.connect() as connection:
            await _capacity_is_the_sum_of_open_attempts(connection)
            await _owners_point_at_their_open_attempt(connection)
            await _versions_have_no_gap(connection)
            await _counts_are_of_the_line(connection)


async def _capacity_is_the_sum_of_open_attempts(connection: Any) -> None:
    booked = (
        sa.select(sa.func.coalesce(sa.func.sum(ATTEMPTS.c.cpu_millicores), 0))
        .where(ATTEMPTS.c.node_id == NODES.c.id, ATTEMPTS.c.state.in_(("CREATED", "STARTED")))
        .scalar_subquery()
    )
    wrong = await connection.execute(
        sa.select(NODES.c.id).where(NODES.c.used_cpu_millicores != booked)
    )
    assert wrong.all() == []


async def _owners_point_at_their_open_attempt(connection: Any) -> None:
    is_owned = sa.or_(
        sa.exists().where(
            JOBS.c.id == ATTEMPTS.c.owner_id, JOBS.c.attempt_number == ATTEMPTS.c.number
        ),
        sa.exists().where(REPLICAS.c.attempt_id == ATTEMPTS.c.id),
    )
    strays = await connection.execute(
        sa.select(ATTEMPTS.c.id).where(ATTEMPTS.c.state.in_(("CREATED", "STARTED")), ~is_owned)
    )
    assert strays.all() == []


async def _versions_have_no_gap(connection: Any) -> None:
    rows = await connection.execute(
        sa.select(CHASSIS.outbox)
        .where(CHASSIS.outbox.c.aggregatetype == "modelyard.job.lifecycle.v1")
        .order_by(CHASSIS.outbox.c.seq)
    )
    versions: dict[str, int] = {}
    for row in rows.mappings():
        fact = job_events_pb2.JobTransitioned.FromString(row["payload"])
        assert fact.version == versions.get(fact.job_id, 0) + 1
        versions[fact.job_id] = fact.version


async def _counts_are_of_the_line(connection: Any) -> None:
    key = ", ".join(column.name for column in LINE_COUNTS.primary_key)
    wrong = await connection.exec_driver_sql(
        f"""
        SELECT {key}, sum(job_count) FROM (
            SELECT {key}, job_count FROM line_count
            UNION ALL SELECT {key}, change FROM line_change WHERE change IS NOT NULL
            UNION ALL SELECT tenant, priority, queue, cpu_millicores, memory_bytes, gpu_count,
                spec #>> '{{timeouts,run}}', task_count, queue_seq >> 12, -rest_count
            FROM job WHERE state = 'QUEUED' AND needs_count = 0
        ) AS counted GROUP BY {key} HAVING sum(job_count) <> 0
        """
    )
    assert wrong.all() == []


def cores(count: int) -> Resources:
    """Return so many cores with little memory."""
    return Resources(cpu_millicores=count * 1_000, memory_bytes=1 << 30)


def goes_down_once_it_is_seen(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runtime of the first node be away right after the next look at nodes."""
    look = PostgresNodes.at_work

    async def earlier(nodes: PostgresNodes, **given: Any) -> Sequence[Node]:
        seen = await look(nodes, **given)
        transaction = in_transaction.set(False)  # another process
        await yard.beats(is_runtime_up=False)
        in_transaction.reset(transaction)
        return seen

    monkeypatch.setattr(PostgresNodes, "at_work", earlier)
