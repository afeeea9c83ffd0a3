"""What surrounds the processes of one run, and the eyes on it.

Owns: the parts that outlive every process, what comes from services that are not simulated, and
what a step is. Leaves the processes to `hosts`, what is asked of them to `clients`, what strikes
them to `faults`, and what always holds to `checkers`.
"""

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any, Final

from modelyard.gateway.v1 import tenant_events_pb2
from modelyard.logs.v1 import log_events_pb2
from modelyard.scheduler.v1 import job_events_pb2

from services.chassis.db.relay import Outbox
from services.chassis.events.envelope import NewEvent, record_of
from services.chassis.events.memory_broker import MemoryBroker
from services.chassis.events.ports import Record
from services.chassis.settings import KafkaSettings
from services.chassis.tenancy import TenantId
from services.model_registry.domain.artifact import Artifact, Digest
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.entrypoints.consumers import log_stream, tenants
from services.scheduler.entrypoints.facts import ATTEMPT_LIFECYCLE
from services.scheduler.use_cases.scheduling.preempt_jobs import PreemptJobs
from tests.simulation.checkers import Checkers
from tests.simulation.database import Client, Commit, Database, Transaction
from tests.simulation.engine import FILE_BYTES, Container, Engine
from tests.simulation.registry_store import (
    ARTIFACTS,
    MemoryRegistryTransaction,
)
from tests.simulation.scheduler_store import JobRow, MemorySystemTransaction, MemoryTransaction
from tests.simulation.wire import Violation
from tests.support.sim_loop import SimLoop, outside

EPOCH: Final = datetime(2030, 1, 1, tzinfo=UTC)
IMAGE: Final = "modelyard/base"
FREE, BOUNDED, OTHER = TENANTS = TenantId("acme"), TenantId("bounded"), TenantId("umbrella")
PLANS: Final = {BOUNDED: Resources(1_000, 1 << 30)}
NODES: Final = {NodeId("node-1"): 3_000, NodeId("node-2"): 2_000}
"""Millicores by node."""
MIXED_TENANTS_ODDS: Final = 0.5
"""How often a node takes several tenants' work at a time."""
PREEMPTION_ODDS: Final = 0.5
"""How often jobs make room for those of larger priorities."""
AGING_ODDS: Final = 0.5
"""How often waiting adds to priorities."""
PRIORITY_AGING: Final = timedelta(seconds=10)
ISOLATION_STOP_AFTER: Final = timedelta(seconds=12)
ISOLATION_STOP_GRACE: Final = timedelta(seconds=2)
NODE_LOST_AFTER: Final = timedelta(seconds=25)
LOST_LOOKS_MIN: Final = 3


class SimClock:
    """A machine's clock: right, until something moves it."""

    def __init__(self, loop: SimLoop) -> None:
        self.ahead = timedelta()
        self._loop = loop

    def now(self) -> datetime:
        """Return the wall time, as this machine has it."""
        return EPOCH + timedelta(seconds=self._loop.time()) + self.ahead

    def monotonic(self) -> float:
        """Return seconds that nothing moves."""
        return self._loop.time()


@dataclass(frozen=True, slots=True)
class Made:
    """Which classes the world is made of; a planted bug is another one in a place."""

    transaction: type[Transaction] = Transaction
    tenant_transaction: type[MemoryTransaction] = MemoryTransaction
    system_transaction: type[MemorySystemTransaction] = MemorySystemTransaction
    registry_transaction: type[MemoryRegistryTransaction] = MemoryRegistryTransaction
    outbox: Callable[[Client], Outbox] = lambda client: client
    preempt_jobs: type[PreemptJobs] = PreemptJobs
    isolation_stop_after: timedelta = ISOLATION_STOP_AFTER


class World:
    """All of it, for one run."""

    def __init__(self, seed: int, *, steps: int, made: Made, loop: SimLoop) -> None:
        self.loop = loop
        self.chance = Random(seed)
        self.made = made
        self.step = 0
        self.failed_step: int | None = None
        self.over = asyncio.Event()
        """The first part has had its steps."""
        self._steps = steps
        self._digest = hashlib.sha256()
        self.failed: asyncio.Future[None] = loop.create_future()
        self.broker = MemoryBroker()
        self.scheduler = Database("scheduler", SimClock(loop), self._committed)
        self.registry = Database("registry", SimClock(loop), self._committed)
        self.engines = {
            node_id: Engine(
                SimClock(loop),
                self.chance,
                self._container_changed,
                allows_mixed_tenants=self.chance.random() < MIXED_TENANTS_ODDS,
            )
            for node_id in NODES
        }
        self.preempts = self.chance.random() < PREEMPTION_ODDS
        self.priority_aging = PRIORITY_AGING if self.chance.random() < AGING_ODDS else None
        self.checkers = Checkers(
            self.scheduler,
            self.registry,
            self.engines,
            PLANS,
            preempts=self.preempts,
            has_stopped_s=(ISOLATION_STOP_AFTER + ISOLATION_STOP_GRACE).total_seconds() + 5,
        )
        self._suspended: set[TenantId] = set()
        self._tenant_versions: dict[TenantId, int] = {}

    def fail(self, violation: str) -> None:
        """End the run."""
        if not self.failed.done():
            self.failed_step = self.step
            self.failed.set_exception(Violation(violation))
            self.failed.exception()

    @property
    def digest(self) -> str:
        """Return what stands for all that happened."""
        return self._digest.hexdigest()

    def tell_tenant(self, tenant: TenantId, *, is_suspended: bool) -> None:
        """Publish what the gateway says of a tenant."""
        version = self._tenant_versions[tenant] = self._tenant_versions.get(tenant, 0) + 1
        if is_suspended != (tenant in self._suspended):
            self._suspended ^= {tenant}
            self.checkers.suspended_at_s[tenant] = self.loop.time()
        message = tenant_events_pb2.Tenant(
            id=tenant,
            version=version,
            state=tenant_events_pb2.TENANT_STATE_SUSPENDED
            if is_suspended
            else tenant_events_pb2.TENANT_STATE_ACTIVE,
            reason="unpaid" if is_suspended else "",
        )
        if (most := PLANS.get(tenant)) is not None:
            message.plan.running_cpu_millicores_max = most.cpu_millicores
            message.plan.running_memory_bytes_max = most.memory_bytes
        state = "suspended" if is_suspended else "active"
        self._publish(tenants.TOPIC, tenant, f"modelyard.tenant.{state}.v1", tenant, message)

    def open_reader(
        self, settings: KafkaSettings, topic: str, *, client_id: str
    ) -> AbstractAsyncContextManager[Any]:
        """Read a whole topic."""
        return self.broker.open_reader(settings, topic, client_id=client_id)

    def keep_artifact(self, tenant: TenantId, digest: str) -> None:
        """Store bytes in the registry."""
        place = (ARTIFACTS.name, (tenant, Digest(digest)))
        self.registry.apply({place: Artifact(Digest(digest), FILE_BYTES)}, None)

    # Steps.

    def appended(self, record: Record) -> None:
        """Note a record that the broker keeps, and let others react."""
        self._note("record", record.topic, record.key, record.value)
        self.check(lambda: self.checkers.appended(record))
        if record.topic == ATTEMPT_LIFECYCLE:
            self._collect_output(record)
        if ".dead-letter." in record.topic:
            self.fail(f"an event was dead-lettered: {record.headers}")

    def _committed(self, database: Database, commit: Commit) -> None:
        changes = [(*place, _shown(after)) for place, (_, after) in commit.changes.items()]
        self._note("commit", database.name, changes)
        self.check(lambda: self.checkers.committed(database, commit))

    def _container_changed(self, engine: Engine, container: Container) -> None:
        self._note("container", repr(container.status))
        self.check(lambda: self.checkers.changed(engine, container))

    def _note(self, *what: object) -> None:
        self.step += 1
        self._digest.update(repr((self.loop.time(), what)).encode())
        if self.step >= self._steps:
            self.over.set()

    def check(self, check: Callable[[], None]) -> None:
        if self.failed.done():
            return
        try:
            check()
        except Violation as violation:
            self.fail(str(violation))

    def _collect_output(self, record: Record) -> None:
        """Say, as the log collector does, that an ended attempt's output is stored."""
        fact = job_events_pb2.AttemptTransitioned.FromString(record.value or b"")
        if fact.state not in {
            job_events_pb2.ATTEMPT_STATE_EXITED,
            job_events_pb2.ATTEMPT_STATE_LOST,
        }:
            return
        completed = log_events_pb2.LogStreamChanged(
            attempt_id=fact.attempt_id,
            tenant=fact.tenant,
            owner_id=fact.owner_id,
            state=log_events_pb2.LOG_STREAM_STATE_COMPLETED,
        )
        publish = partial(
            self._publish,
            log_stream.TOPIC,
            fact.attempt_id,
            "modelyard.log-stream.completed.v1",
            TenantId(fact.tenant),
            completed,
        )
        outside(lambda: self.loop.call_later(self.chance.random() * 5, publish))

    def _publish(self, topic: str, key: str, kind: str, tenant: TenantId, message: Any) -> None:
        event = NewEvent(
            topic=topic,
            key=key,
            type=kind,
            subject=key,
            tenant=tenant,
            data=message.SerializeToString(deterministic=True),
            dataschema=message.DESCRIPTOR.full_name,
        )
        event_id = f"evt_{self.chance.getrandbits(64):x}"
        self.broker.append(record_of(event, event_id=event_id, source="/outside", time=EPOCH))


def _shown(row: object) -> str:
    """Return a row as text that is alike in every interpreter: descriptions hold sets."""
    if isinstance(row, JobRow):
        job = row.job
        return repr((row.queue_seq, job.state, job.version, job.reason, job.attempt_id))
    return repr(row)
