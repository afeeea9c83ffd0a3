"""Stand-ins for what the runner needs from outside."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any, cast

from services.chassis.errors import Conflict, ModelyardError, NotFound, Unavailable
from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import Attempt, LogLocation
from services.scheduler.domain.attempts.runtime import (
    Capabilities,
    ContainerExit,
    ContainerPhase,
    ContainerSpec,
    ContainerStatus,
    EndCause,
    LeftFile,
    Listening,
    ProgressData,
)
from services.scheduler.domain.attempts.work import AttemptWork, JobWork, ReplicaWork
from services.scheduler.domain.deployments.deployment import (
    Deployment,
    DeploymentSpec,
    DeploymentState,
)
from services.scheduler.domain.deployments.model import ModelPin
from services.scheduler.domain.deployments.replica import Replica, ReplicaState
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import AttemptId, NodeId
from services.scheduler.domain.jobs.job import Job, JobState
from services.scheduler.domain.resources import Resources
from services.scheduler.use_cases.attempts.ports import RunSpan, ServerSetup, StoredFile
from services.scheduler.use_cases.ports import Fact, UnitOfWork
from tests.unit.scheduler_runner.builders import DIGEST, NOW, an_exit


@dataclass(frozen=True)
class HeldLease:
    """A lease of some epoch."""

    epoch: int = 1
    name: str = "node/node-1"
    holder: str = "proc_1"


@dataclass
class NodeLease:
    """The node's lease, held until it is not."""

    held: HeldLease | None = field(default_factory=HeldLease)


@dataclass
class ManualClock:
    """A clock that moves when told."""

    time: datetime = NOW
    leapt: timedelta = timedelta()

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return (self.time - self.leapt).timestamp()

    def advance(self, by: timedelta) -> None:
        self.time += by

    def leap(self, by: timedelta) -> None:
        """Set the wall clock; no time passes."""
        self.time += by
        self.leapt += by


class Store:
    """The rows around one attempt, and what was published of them."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.lease = HeldLease()
        self.rows: dict[str, Any] = {}
        self.used = Counter[str]()
        self.facts: list[Fact] = []
        self.is_runtime_up: list[bool] = []
        self.nodes: dict[str, tuple[Resources, str, bool]] = {}
        self.lost_at: datetime | None = None
        self.works: list[AttemptWork] = []
        self.looks = 0
        """How often the runner has read what is open on its node."""
        self.queries = 0

    def given(self, work: AttemptWork, *, state: str | None = None) -> AttemptWork:
        """Store an attempt and its owner."""
        attempt = work.attempt
        self.rows[attempt.id] = attempt
        self.used[attempt.node_id] += attempt.resources.cpu_millicores
        if isinstance(work.owner, JobWork):
            job, _ = Job.queued(
                work.owner.job_id, attempt.tenant, work.owner.spec, at=NOW, traceparent=None
            )
            self.rows[job.id] = replace(
                job,
                state=JobState(state or work.owner.state),
                attempt_id=attempt.id,
                attempt_number=1,
                stop=work.stop,
            )
            return work
        self._given_replica(attempt, work.owner, state or ReplicaState.WARMING)
        return work

    def _given_replica(self, attempt: Attempt, owner: ReplicaWork, state: str) -> None:
        spec = DeploymentSpec(
            name=owner.deployment_name,
            model="models:/digits/3",
            image=owner.image,
            replica_count=1,
            resources=attempt.resources,
        )
        deployment, _ = Deployment.created(
            owner.deployment_id, attempt.tenant, spec, owner.model, at=NOW, traceparent=None
        )
        if state == ReplicaState.READY:
            deployment = replace(deployment, state=DeploymentState.SERVING)
        replica = Replica.queued(owner.replica_id, attempt.tenant, deployment.id, ordinal=0)
        self.rows[deployment.id] = deployment
        self.rows[replica.id] = replace(
            replica,
            state=ReplicaState(state),
            attempt_id=attempt.id,
            attempt_number=1,
            address=owner.address,
        )

    def as_unit_of_work(self) -> UnitOfWork:
        return cast("UnitOfWork", SimpleNamespace(system=self.system, reading=self.system))

    @asynccontextmanager
    async def system(self, *, because: str) -> AsyncIterator[Any]:
        assert because
        before, fact_count = dict(self.rows), len(self.facts)
        try:
            yield _Transaction(self)
        except ModelyardError:
            self.rows = before
            del self.facts[fact_count:]
            raise

    @property
    def fact_names(self) -> list[str]:
        """Return what was published, in short."""
        return [
            str(getattr(fact, "state", "") or getattr(fact, "what", "") or _state_of(fact))
            for fact in self.facts
        ]


def _state_of(fact: Any) -> str:
    return fact.attempt.state if hasattr(fact, "attempt") else type(fact).__name__


class _Transaction:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.now = store.clock.now()
        self.emit = store.facts.append
        rows = SimpleNamespace(get=self._get, save=self._save)
        self.jobs = SimpleNamespace(
            get_any=self._get, save=self._save, retried_count=self._retried_count
        )
        self.deployments = rows
        self.attempts = SimpleNamespace(
            get=self._get,
            save=self._save,
            ends=self._ends,
            open_on_node=self._open_on_node,
            goes_on=self._goes_on,
        )
        self.replicas = SimpleNamespace(
            get=self._get, save=self._save, of_deployment=self._of_deployment
        )
        self.nodes = SimpleNamespace(
            release=self._release,
            register=self._register,
            heartbeat=self._heartbeat,
            get=self._get_node,
            save=self._save_node,
        )

    async def hold(self, lease: HeldLease) -> None:
        if lease != self._store.lease:
            raise Conflict("lease", lease.name)

    async def _get(self, row_id: str) -> Any:
        if row_id not in self._store.rows:
            raise NotFound("row", row_id)
        return self._store.rows[row_id]

    async def _save(self, row: Any) -> None:
        self._store.rows[row.id] = row

    async def _retried_count(self, tenant: TenantId, *, since: datetime) -> int:
        jobs = [row for row in self._store.rows.values() if isinstance(row, Job)]
        return sum(
            job.tenant == tenant and job.retry_at is not None and job.retry_at > since
            for job in jobs
        )

    async def _ends(self, attempt_ids: Sequence[str]) -> Mapping[str, datetime | None]:
        self._store.queries += 1
        rows = self._store.rows
        return {each: rows[each].ended_at for each in attempt_ids if each in rows}

    async def _goes_on(self, job_id: str, *, number: int) -> bool:
        attempts = [row for row in self._store.rows.values() if isinstance(row, Attempt)]
        ours = [each for each in attempts if (each.owner.id, each.number) == (job_id, number)]
        return any(not each.is_terminal for each in ours)

    async def _open_on_node(self, node_id: NodeId) -> Sequence[AttemptWork]:
        self._store.looks += 1
        return self._store.works

    async def _of_deployment(self, deployment_id: str) -> Sequence[Replica]:
        rows = self._store.rows.values()
        return [
            row for row in rows if isinstance(row, Replica) and row.deployment_id == deployment_id
        ]

    async def _release(self, node_id: NodeId, resources: Resources) -> None:
        self._store.used[node_id] -= resources.cpu_millicores

    async def _register(
        self,
        node_id: NodeId,
        capacity: Resources,
        *,
        runtime: str,
        allows_mixed_tenants: bool,
    ) -> bool:
        self._store.nodes[node_id] = (capacity, runtime, allows_mixed_tenants)
        return self._store.lost_at is not None

    async def _get_node(self, node_id: NodeId) -> Node:
        capacity, runtime, _ = self._store.nodes[node_id]
        node = Node(node_id, capacity, Resources(), NOW, runtime, None)
        return replace(node, lost_at=self._store.lost_at)

    async def _save_node(self, node: Node) -> None:
        self._store.lost_at = node.lost_at

    async def _heartbeat(self, node_id: NodeId, *, is_runtime_up: bool) -> None:
        assert node_id in self._store.nodes
        self._store.is_runtime_up.append(is_runtime_up)


@dataclass
class Runtime:
    """Containers that do what a test says; refuses what a real one would."""

    containers: dict[str, ContainerStatus] = field(default_factory=dict)
    specs: dict[str, ContainerSpec] = field(default_factory=dict)
    progress: bytes = b""
    outputs: dict[str, list[LeftFile]] = field(default_factory=dict)
    checkpoint: list[LeftFile] = field(default_factory=list)
    failing: ModelyardError | None = None
    calls: list[str] = field(default_factory=list)
    capabilities: Capabilities = field(default_factory=lambda: Capabilities("memory", frozenset()))

    def is_(self, phase: ContainerPhase, name: str = "modelyard-att_1", **changes: Any) -> None:
        """Let a container be in a phase."""
        if phase in {ContainerPhase.RUNNING, ContainerPhase.EXITED}:
            changes.setdefault("started_at", NOW)
            changes.setdefault("host", "127.0.0.1")
        self.containers[name] = ContainerStatus(name, phase, **changes)

    def exited(self, end: ContainerExit | None = None) -> None:
        self.is_(ContainerPhase.EXITED, exit=end or an_exit())

    async def ping(self) -> None:
        if self.failing is not None:
            raise self.failing

    async def tidy(self) -> None:
        self._call("tidy")

    async def follow(self, stopping: asyncio.Event) -> None:
        await stopping.wait()

    def listening(self, port_count: int) -> Listening:
        return Listening("127.0.0.1", tuple(range(1, port_count + 1)))

    async def create(self, spec: ContainerSpec) -> None:
        self._call("create")
        self.specs[spec.name] = spec
        self.is_(ContainerPhase.CREATED, spec.name, labels=spec.labels)

    async def entomb(self, name: str) -> ContainerStatus:
        self._call("entomb")
        if (await self.inspect(name)).phase in {ContainerPhase.ABSENT, ContainerPhase.CREATED}:
            self.is_(ContainerPhase.TOMBSTONE, name)
        return await self.inspect(name)

    async def start(self, name: str) -> ContainerStatus:
        self._call("start")
        self.is_(ContainerPhase.RUNNING, name, labels=self.containers[name].labels)
        return await self.inspect(name)

    async def inspect(self, name: str) -> ContainerStatus:
        return self.containers.get(name) or ContainerStatus(name, ContainerPhase.ABSENT)

    async def list(self, labels: Mapping[str, str]) -> Sequence[ContainerStatus]:
        return list(self.containers.values())

    async def wait_exit(self, name: str) -> ContainerStatus:
        self._call("wait_exit")
        return await self.inspect(name)

    async def stop(self, name: str, *, grace: timedelta) -> ContainerStatus:
        self._call(f"stop {grace.total_seconds():g}")
        self.is_(ContainerPhase.EXITED, name, exit=an_exit(143, cause=EndCause.STOP))
        return await self.inspect(name)

    async def remove(self, name: str) -> None:
        self._call("remove")
        del self.containers[name]

    async def read_progress(self, name: str, *, offset: int) -> ProgressData:
        return ProgressData(self.progress[offset:], len(self.progress))

    async def list_output(
        self, name: str, path: str, *, files_max: int, bytes_max: int
    ) -> Sequence[LeftFile]:
        if path not in self.outputs:
            raise NotFound("output", path)
        return self.outputs[path]

    async def list_checkpoint(
        self, name: str, *, files_max: int, bytes_max: int
    ) -> Sequence[LeftFile]:
        return self.checkpoint

    async def last_lines(self, name: str, *, bytes_max: int) -> str:
        return "last lines"

    async def log_location(self, name: str) -> LogLocation:
        return LogLocation(path=f"{name}/container.log")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.failing is not None:
            raise self.failing


@dataclass
class Artifacts:
    """A registry with every digest but some, up until it is not."""

    is_up: bool = True
    missing: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    stored: list[PurePath] = field(default_factory=list)
    stored_as: set[AttemptId] = field(default_factory=set)

    @asynccontextmanager
    async def held(
        self, tenant: TenantId, digests: Sequence[str]
    ) -> AsyncIterator[Mapping[str, PurePath]]:
        self._require_up()
        self.asked += digests
        for digest in self.missing.intersection(digests):
            raise NotFound("artifact", digest)
        yield {digest: PurePath("/cache") / digest for digest in digests}

    async def put(self, tenant: TenantId, file: PurePath, *, attempt_id: AttemptId) -> StoredFile:
        self._require_up()
        self.stored.append(file)
        self.stored_as.add(attempt_id)
        return StoredFile(DIGEST, 5)

    def _require_up(self) -> None:
        if not self.is_up:
            raise Unavailable("model-registry")


@dataclass
class Probe:
    """A server that answers, or not."""

    answers: bool = True

    async def is_ready(self, url: str) -> bool:
        assert url == "http://127.0.0.1:1/ready"
        return self.answers


class Server:
    """A kind of model server."""

    port_count = 1

    def setup(self, *, name: str, model: ModelPin, listening: Listening) -> ServerSetup:
        return ServerSetup(
            command=("serve", name),
            texts={"settings.json": "{}"},
            model_files={file.path: file.digest for file in model.files},
            port=listening.ports[0],
            ready_path="/ready",
        )


@dataclass
class Traces:
    """Remembers spans, and under what was acted."""

    spans: list[RunSpan] = field(default_factory=list)
    parents: list[str | None] = field(default_factory=list)

    @contextmanager
    def under(self, traceparent: str | None) -> Iterator[None]:
        self.parents.append(traceparent)
        yield

    def record(self, span: RunSpan) -> None:
        self.spans.append(span)
