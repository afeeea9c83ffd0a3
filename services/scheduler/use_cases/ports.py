"""What the use cases need from outside.

Owns: the Protocols of the store, the registry and the lease. A repository exists only inside a
unit of work: for one tenant, or for the whole system by name and with a reason.

Always holds: what is read with `…_for_update` (and all that the system reads to change it) is
locked until the commit; `save` refuses with Conflict what has moved on since this transaction read
it. Rows are locked in this order, so that transactions never wait for each other in a ring:
attempt, deployment, replica, job, node; several of a kind by id.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from services.chassis.errors import InProgress, KeyReused
from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import Attempt, AttemptTransitioned
from services.scheduler.domain.attempts.work import AttemptWork
from services.scheduler.domain.deployments.deployment import (
    Deployment,
    DeploymentChanged,
    RoutingEntry,
)
from services.scheduler.domain.deployments.model import ModelPin, ModelReference
from services.scheduler.domain.deployments.replica import Replica
from services.scheduler.domain.fleet.loss import UnheldNode
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.fleet.reach import FleetDoors, FleetReach
from services.scheduler.domain.identities import (
    AttemptId,
    DeploymentId,
    JobId,
    NodeId,
    ReplicaId,
)
from services.scheduler.domain.jobs.array import ElementCounts
from services.scheduler.domain.jobs.job import Job, JobState, JobTransitioned
from services.scheduler.domain.jobs.stats import JobEnds, JobWaits
from services.scheduler.domain.queues.queue import Pause, Queue
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.line import Head, LineChange, Totals, Waiting
from services.scheduler.domain.scheduling.place import Standing
from services.scheduler.domain.scheduling.plan import Holding
from services.scheduler.domain.scheduling.preemption import Running
from services.scheduler.domain.scheduling.shares import Averages
from services.scheduler.domain.tenants.tenant import Tenant

Fact = JobTransitioned | AttemptTransitioned | DeploymentChanged | RoutingEntry


class Lease(Protocol):
    """A lease that this process holds, or held."""

    @property
    def name(self) -> str:
        """Return what it is for."""
        ...

    @property
    def holder(self) -> str:
        """Return the process start that holds it."""
        ...

    @property
    def epoch(self) -> int:
        """Return the how-manieth holder it has."""
        ...


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What makes a request repeatable: the caller's key and the hash of what it asks for."""

    key: str
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A repeatable request of a tenant, and the id of what it makes if it is the first."""

    tenant: TenantId
    key: RequestKey
    makes: str


class Tenants(Protocol):
    """Tenants as far as this process has heard of them, in memory."""

    def get(self, tenant: TenantId) -> Tenant:
        """Return a tenant; one that nobody has told of yet is active."""
        ...

    def suspended(self) -> Mapping[TenantId, Tenant]:
        """Return those whose work must not run."""
        ...

    def purged(self) -> Sequence[TenantId]:
        """Return those of which nothing may be left."""
        ...

    def bounded(self) -> Mapping[TenantId, Tenant]:
        """Return those that may not take whatever there is."""
        ...

    @property
    def is_whole(self) -> bool:
        """Return whether none was missed."""
        ...

    def missing(self, tenants: Iterable[TenantId]) -> Sequence[TenantId]:
        """Return those of which nobody has told, and who may be suspended."""
        ...


class Answers(Protocol):
    """Earlier answers of this tenant's repeatable requests."""

    async def remember(self, method: str, key: RequestKey, makes: str) -> str | None:
        """Return the id that an equal earlier request made; None when this is the first.

        Then `makes` is the id that later ones are told. Raises KeyReused when the key came with
        another request, InProgress while a twin works.
        """
        ...


class AllAnswers(Protocol):
    """Earlier answers of all tenants' repeatable requests."""

    async def remember(
        self, method: str, asked: Sequence[Repeatable]
    ) -> Sequence[str | KeyReused | InProgress | None]:
        """Answer each as `Answers.remember` does, all in one; no two are of the same key.

        Raises InProgress when a twin of one of them takes too long; then none is remembered.
        """
        ...

    async def forget(self, method: str, asked: Sequence[Repeatable]) -> None:
        """Take back what this transaction has remembered."""
        ...


class TenantJobs(Protocol):
    """One tenant's jobs."""

    async def get(self, job_id: JobId) -> Job:
        """Return a job; raises NotFound, for another tenant's job too."""
        ...

    async def get_for_update(self, job_id: JobId) -> Job:
        """Return a job and keep it from changing until the commit; raises NotFound."""
        ...

    async def save(self, job: Job) -> None:
        """Store a job that this transaction has read; raises Conflict."""
        ...

    async def newest(
        self,
        *,
        before: JobId | None,
        states: Sequence[JobState],
        labels: Mapping[str, str],
        queue: str | None,
        array_id: JobId | None = None,
        array_index: int | None = None,
        limit: int,
    ) -> Sequence[Job]:
        """Return jobs from the newest on, after `before` in that order.

        Only those in one of these states, no states: any; with all of these labels; of this queue,
        None: any; of this array its elements, or the one of this index, None: jobs that are none.
        """
        ...

    async def element_counts(self, array_ids: Sequence[JobId]) -> Mapping[JobId, ElementCounts]:
        """Return for each array how many of its elements are jobs in each state."""
        ...

    async def states(self, job_ids: Sequence[JobId]) -> Mapping[JobId, JobState]:
        """Return where those of the jobs are that there are, of this tenant."""
        ...

    async def attempts(
        self, job_id: JobId, *, after: AttemptId | None, limit: int
    ) -> Sequence[Attempt]:
        """Return a job's attempts from the first on, those after `after` in that order."""
        ...

    async def waits(self, *, since: datetime, limit: int) -> Sequence[JobWaits]:
        """Return how long jobs waited that were first admitted since then; of the last `limit`.

        By priority, the larger first. A job was first admitted as its first attempt was created.
        """
        ...

    async def ends(self, *, since: datetime, limit: int) -> Sequence[JobEnds]:
        """Return how jobs ended that did so since then, and how long they ran; of the last `limit`.

        By state, in alphabetical order.
        """
        ...

    async def booked(self) -> Resources:
        """Return what all that runs of the tenant takes together, replicas too."""
        ...


class TenantQueues(Protocol):
    """One tenant's queues: names that its jobs give, and those that are paused."""

    async def pauses(self) -> Mapping[str, Pause]:
        """Return the pauses by queue; nothing is locked."""
        ...

    async def pauses_for_update(self) -> Mapping[str, Pause]:
        """Return the pauses by queue; until the commit nobody else can ask so."""
        ...

    async def pause(self, pause: Pause) -> None:
        """Store a pause of a queue that has none."""
        ...

    async def resume(self, name: str) -> None:
        """End a queue's pause, if there is one."""
        ...

    async def get(self, name: str) -> Queue:
        """Return a queue, also one of which there is nothing."""
        ...

    async def page(self, *, after: str | None, limit: int) -> Sequence[Queue]:
        """Return by name, after this one, those that are paused or of which a job has not ended."""
        ...


class TenantDeployments(Protocol):
    """One tenant's deployments with their replicas; deleted ones are seen by id only."""

    async def add(self, deployment: Deployment, replicas: Sequence[Replica]) -> None:
        """Store a new deployment; raises AlreadyExists when its name is taken."""
        ...

    async def find(self, id_or_name: str) -> Deployment:
        """Return a deployment; raises NotFound, for another tenant's too."""
        ...

    async def find_for_update(self, id_or_name: str) -> Deployment:
        """Return a deployment and keep it and its replicas from changing; raises NotFound."""
        ...

    async def save(self, deployment: Deployment) -> None:
        """Store a deployment that this transaction has read; raises Conflict."""
        ...

    async def version_of_name(self, name: str) -> int:
        """Return the version of the last deployment of a name, 0 when there was none.

        Until the commit it stays what it is.
        """
        ...

    async def newest(self, *, before: DeploymentId | None, limit: int) -> Sequence[Deployment]:
        """Return deployments from the newest on, after `before` in that order."""
        ...

    async def replicas(
        self, deployment_ids: Sequence[DeploymentId]
    ) -> dict[DeploymentId, list[Replica]]:
        """Return the replicas of these deployments, by place."""
        ...

    async def first_in_line(self, deployment_id: DeploymentId) -> ReplicaId | None:
        """Return which of its replicas is the first to have its turn, if one stands in line."""
        ...

    async def wanted_replica_count(self) -> int:
        """Count replicas of all deployments; until the commit nobody else can count or add."""
        ...


class Fleet(Protocol):
    """What callers may know of the nodes."""

    async def reach_for(self, resources: Resources) -> FleetReach:
        """Tell whether some node is large enough for this, and the most that any has."""
        ...

    async def doors_for(
        self, resources: Resources, *, tenant: TenantId, silence_max: timedelta
    ) -> FleetDoors:
        """Tell which of the nodes that are large enough take anything new of a tenant's."""
        ...


class Transaction(Protocol):
    """A unit of work for one tenant; commits when its block ends well."""

    @property
    def now(self) -> datetime:
        """Return the one instant that this transaction stamps."""
        ...

    @property
    def answers(self) -> Answers:
        """Return the tenant's earlier answers."""
        ...

    @property
    def jobs(self) -> TenantJobs:
        """Return the tenant's jobs."""
        ...

    @property
    def deployments(self) -> TenantDeployments:
        """Return the tenant's deployments."""
        ...

    @property
    def queues(self) -> TenantQueues:
        """Return the tenant's queues."""
        ...

    @property
    def fleet(self) -> Fleet:
        """Return what a tenant may know of the nodes."""
        ...

    def emit(self, fact: Fact) -> None:
        """Publish a fact if and only if this transaction commits."""
        ...


class Jobs(Protocol):
    """All tenants' jobs."""

    async def add(self, jobs: Sequence[Job]) -> None:
        """Put new jobs last in line, in this order."""
        ...

    async def add_elements(self, elements: Sequence[Job]) -> None:
        """Store what was split off arrays that this transaction has read, at their places."""
        ...

    async def some(self, job_ids: Sequence[JobId]) -> Sequence[Job]:
        """Return those of the jobs that there are; nothing is locked."""
        ...

    async def get_any(self, job_id: JobId) -> Job:
        """Return a job of any tenant, locked; raises NotFound."""
        ...

    async def queued(self, job_ids: Sequence[JobId]) -> Sequence[Job]:
        """Return those of the jobs that still stand in line, locked."""
        ...

    async def placed(self, tenants: Sequence[TenantId], *, limit: int) -> Sequence[JobId]:
        """Return jobs of these tenants that run or will; nothing is locked."""
        ...

    async def placed_on_drained(self, *, limit: int) -> Sequence[JobId]:
        """Return jobs on nodes that are drained, which run or will; nothing is locked."""
        ...

    async def expired(self, *, at: datetime, limit: int) -> Sequence[JobId]:
        """Return jobs that have stood in line for as long as they may; nothing is locked."""
        ...

    async def releasable(self, *, limit: int) -> Sequence[JobId]:
        """Return jobs in line that wait for one that has ended, or is gone; nothing is locked."""
        ...

    async def arrays_without_open(self, *, limit: int) -> Sequence[JobId]:
        """Return arrays that have left the line, and all of whose elements have ended.

        They have not ended themselves; nothing is locked.
        """
        ...

    async def of_stopping_arrays(self, *, limit: int) -> Sequence[JobId]:
        """Return elements of arrays that are to stop, which nobody has asked to for good.

        Nothing is locked.
        """
        ...

    async def element_counts(
        self, tenant: TenantId, array_ids: Sequence[JobId]
    ) -> Mapping[JobId, ElementCounts]:
        """Return for each array how many of its elements are jobs in each state."""
        ...

    async def states(self, tenant: TenantId, job_ids: Sequence[JobId]) -> Mapping[JobId, JobState]:
        """Return where those of a tenant's jobs are that there are; nothing is locked."""
        ...

    async def retried_count(self, tenant: TenantId, *, since: datetime) -> int:
        """Count a tenant's jobs whose last retry began, or will begin, after an instant."""
        ...

    async def save(self, job: Job) -> None:
        """Store a job that this transaction has read; raises Conflict."""
        ...

    async def admit(self, jobs: Sequence[Job]) -> None:
        """Store jobs that this transaction has read, and then admitted; raises Conflict."""
        ...


class OpenAttempts(Protocol):
    """What runs or is to run."""

    async def open_on_node(self, node_id: NodeId) -> Sequence[AttemptWork]:
        """Return what is CREATED or STARTED on a node, oldest first, with all it takes to run it.

        Bounded by the node's capacity; nothing is locked.
        """
        ...


class Bookings(Protocol):
    """What open attempts take."""

    async def held(self) -> Mapping[TenantId, Resources]:
        """Return what the open attempts of each tenant take together; nothing is locked."""
        ...

    async def holdings(self, *, soonest: int | None = None) -> Sequence[Holding]:
        """Return what open attempts hold, and for how long at most; nothing is locked.

        Of all of them, or of so many that end first.

        By the database's clock and its run time limit, counted from its placement; of one that is
        asked to stop by its grace, if that is over before. Also when it is expected to end, by what
        it was given when it was stored.
        """
        ...

    async def does_any_end(self) -> bool:
        """Tell whether an open attempt is a job's, which ends by itself; nothing is locked."""
        ...

    async def running(self, *, preemptible_by: int) -> Sequence[Running]:
        """Return all that has open attempts, if a placed job of it has less than this priority.

        Else nothing: nobody could make room. Nothing is locked.
        """
        ...


class SeenAttempts(OpenAttempts, Bookings, Protocol):
    """What runs, for whoever only looks."""


class Attempts(Bookings, Protocol):
    """All tenants' attempts."""

    async def add(self, attempts: Sequence[Attempt]) -> None:
        """Store new attempts; their owners have no open ones but these, one a task."""
        ...

    async def took(
        self, templates: Collection[tuple[TenantId, str]]
    ) -> Mapping[tuple[TenantId, str], timedelta]:
        """Return how long the latest of tenants' templates took that succeeded, on average.

        From their placements to their ends; those of which none has succeeded are missing. Nothing
        is locked.
        """
        ...

    async def goes_on(self, job_id: JobId, *, number: int) -> bool:
        """Tell whether one of the attempts of this number at a job is open.

        Whoever has locked the job hears of all ends that were recorded before.
        """
        ...

    async def nodes_of(self, job_id: JobId) -> Sequence[NodeId]:
        """Return the nodes on which a job has open attempts, by id; nothing is locked."""
        ...

    async def get(self, attempt_id: AttemptId) -> Attempt:
        """Return an attempt, locked; raises NotFound."""
        ...

    async def save(self, attempt: Attempt) -> None:
        """Store an attempt that this transaction has read; raises Conflict."""
        ...

    async def ends(self, attempt_ids: Sequence[AttemptId]) -> Mapping[AttemptId, datetime | None]:
        """Return when each ended, None if it is open; those that nobody knows are missing.

        Nothing is locked: an end is final.
        """
        ...


class Deployments(Protocol):
    """All tenants' deployments."""

    async def get(self, deployment_id: DeploymentId) -> Deployment:
        """Return a deployment, locked; raises NotFound."""
        ...

    async def save(self, deployment: Deployment) -> None:
        """Store a deployment that this transaction has read; raises Conflict."""
        ...

    async def due(
        self, *, at: datetime, suspended: Sequence[TenantId], limit: int
    ) -> Sequence[DeploymentId]:
        """Return deployments that something is to be done for: restarts due, deletions under way.

        And those of suspended tenants, or on nodes that are drained, of which something runs.
        Nothing is locked.
        """
        ...

    async def routing_entries(
        self, *, after: DeploymentId | None, deleted_since: datetime, limit: int
    ) -> Sequence[RoutingEntry]:
        """Return current routing entries by deployment id, with those deleted since then."""
        ...


class Replicas(Protocol):
    """All tenants' replicas; reading one locks its deployment first."""

    async def get(self, replica_id: ReplicaId) -> Replica:
        """Return a replica, locked with its deployment; raises NotFound."""
        ...

    async def queued(self, replica_ids: Sequence[ReplicaId]) -> Sequence[Replica]:
        """Return those of the replicas that still stand in line, locked with their deployments."""
        ...

    async def of_deployment(self, deployment_id: DeploymentId) -> Sequence[Replica]:
        """Return a deployment's replicas by place, locked with it."""
        ...

    async def save(self, replica: Replica) -> None:
        """Store a replica that this transaction has read; raises Conflict."""
        ...


class NodesAtWork(Protocol):
    """Where something could be placed."""

    async def at_work(self, *, silence_max: timedelta) -> Sequence[Node]:
        """Return open nodes with a recent heartbeat whose runtime answers, with what they hold.

        Nothing is locked.
        """
        ...

    async def capacity_at_work(self, *, silence_max: timedelta) -> Resources:
        """Return what those nodes have, all together."""
        ...


class Nodes(Fleet, NodesAtWork, Protocol):
    """The machines that run containers.

    When a runner was last heard of, and whether that is recent, the database's clock tells: those
    of runners, leaders and whoever else asks may differ.
    """

    async def fingerprint_at_work(self, *, silence_max: timedelta) -> str:
        """Return what tells nodes at work apart from themselves at another time.

        By which there are, what they have, and what is booked; nothing is locked.
        """
        ...

    async def register(
        self,
        node_id: NodeId,
        capacity: Resources,
        *,
        runtime: str,
        allows_mixed_tenants: bool,
    ) -> bool:
        """Add a node or change what it has, with a heartbeat; what is booked stays booked.

        Returns whether the node counts as lost.
        """
        ...

    async def heartbeat(self, node_id: NodeId, *, is_runtime_up: bool) -> None:
        """Note that the node's runner is alive, and whether its runtime is, or since when not."""
        ...

    async def get(self, node_id: NodeId) -> Node:
        """Return a node, locked, with what it holds; raises NotFound."""
        ...

    async def some(self, node_ids: Collection[NodeId]) -> Sequence[Node]:
        """Return nodes by id, locked, with what they hold."""
        ...

    async def alive(
        self, node_ids: Sequence[NodeId], *, silence_max: timedelta
    ) -> Collection[NodeId]:
        """Return those of the nodes that have a recent heartbeat; nothing is locked."""
        ...

    async def draining(self) -> Mapping[NodeId, datetime]:
        """Return since when nodes are drained, of those that are; nothing is locked."""
        ...

    async def unheld(self, *, limit: int) -> Sequence[UnheldNode]:
        """Return nodes whose lease nobody holds, the longest first; nothing is locked.

        Of lost ones only those with open attempts.
        """
        ...

    async def first(self, limit: int) -> tuple[Sequence[Node], int]:
        """Return nodes by id, silent ones too, and how many there are; nothing is locked."""
        ...

    async def save(self, node: Node) -> None:
        """Store what is used of a node that this transaction has read, and whether it is open."""
        ...

    async def book(self, nodes: Sequence[Node]) -> None:
        """Store what is used of nodes that this transaction has read, and nothing else."""
        ...

    async def release(self, node_id: NodeId, resources: Resources) -> None:
        """Give an ended attempt's capacity back."""
        ...


FIRST_SHAPES_MAX: Final = 200
"""Of jobs in line, all tenants': so many are looked at, those of larger priorities first."""
FIRST_JOBS_MAX: Final = 2_000
"""Of all those shapes together: where there are many shapes, fewer of each are looked at."""
FIRST_REPLICAS_MAX: Final = 1_000
"""All tenants' replicas in line that are looked at, the first ones."""


@dataclass(frozen=True, slots=True)
class FirstInLine:
    """Those in line that a plan may come to."""

    heads: Sequence[Head]
    each_max: int
    """So many jobs of a shape are there, or all that there are."""
    is_whole: bool
    """All shapes are there."""


class SeenLine(Protocol):
    """Who waits for capacity, for whoever only looks; nothing is locked."""

    async def queued_count(self, tenant: TenantId) -> int:
        """Count a tenant's jobs in line; there may be others by now."""
        ...

    async def standing(self, job_id: JobId) -> Standing:
        """Return how many jobs whose turns can come stand before one in line, and beside it."""
        ...

    async def paused(self) -> Collection[tuple[TenantId, str]]:
        """Return all queues that are paused, each with its tenant."""
        ...

    async def pausing_count(self, tenant: TenantId, *, at: datetime) -> int:
        """Count a tenant's jobs in line whose retry begins later than `at`."""
        ...

    async def first(self, *, at: datetime, each_max: int) -> FirstInLine:
        """Return the first of each shape, at most `each_max` of one, or fewer (`FIRST_…_MAX`).

        Without those of paused queues, those whose retry begins later than `at`, and those that
        wait for other jobs.
        """
        ...


@dataclass(frozen=True, slots=True)
class LineNews:
    """What has changed in the line since somebody took the last news."""

    changes: Sequence[LineChange]
    is_cut: bool
    """There is more news."""
    totals: Totals | None
    """The whole line's with all news up to the same instant; None: nobody has asked."""


class Line(SeenLine, Protocol):
    """Who waits for capacity."""

    async def queued_counts(self, tenants: Sequence[TenantId]) -> Mapping[TenantId, int]:
        """Count the jobs in line of those tenants that have any.

        Until the commit nobody else can count or add theirs.
        """
        ...

    def everybody(self) -> AsyncIterator[Sequence[Waiting]]:
        """Return all who wait, some after others; nothing is locked."""
        ...

    async def forget_news(self, *, limit: int) -> bool:
        """Let so much of what has changed until now be no news, with the commit.

        Returns whether there may be more.
        """
        ...

    async def take_news(self, *, limit: int, with_totals: bool) -> LineNews:
        """Return what has changed, which with the commit is no news any more.

        All of a commit's changes are told once it can be seen, however late it began.
        """
        ...

    async def age(self, *, after: timedelta, but_for: Sequence[TenantId], limit: int) -> int:
        """Give jobs that have waited for so long with their priority the next larger one.

        Those that came first before others, none of these tenants or a paused queue, none that
        somebody has locked; by the database's clock. Returns how many there were.
        """
        ...

    async def mend_counts(self) -> bool:
        """Count all in line anew, if not as many are counted as stand there; return whether so."""
        ...


class Usage(Protocol):
    """What tenants held lately."""

    async def averages(self) -> Averages:
        """Return it as it was last kept."""
        ...


class KeptUsage(Usage, Protocol):
    """What tenants held lately, for who leads."""

    async def keep(self, averages: Averages) -> None:
        """Keep this instead of what was kept."""
        ...


class Leavings(Protocol):
    """What tenants have had here, for the end of it; waits for nobody's locks.

    What runs is left alone, with its owner and all attempts of that. Each call looks at so many
    owners or answers at most, in a fixed order; the rest: next call.
    """

    async def living_deployments(
        self, tenants: Sequence[TenantId], *, offset: int, limit: int
    ) -> Sequence[tuple[TenantId, DeploymentId]]:
        """Return deployments whose deletion nobody has asked for, but for the first `offset`."""
        ...

    async def delete_jobs(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete jobs of which nothing runs, with their attempts; return how many rows went."""
        ...

    async def delete_ended_jobs(self, kept: timedelta, *, limit: int) -> int:
        """Delete jobs, with their attempts, that ended so long ago; return how many jobs went.

        By the database's clock, those that ended first before others. One that another job waits
        for stays until that has been told of its end.
        """
        ...

    async def delete_deployments(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete DELETED deployments, with replicas and attempts; return how many rows went."""
        ...

    async def delete_pauses(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete pauses of queues; return how many rows went."""
        ...

    async def delete_answers(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete answers to repeatable requests; return how many rows went."""
        ...


class SystemTransaction(Protocol):
    """A unit of work that spans tenants, for loops."""

    @property
    def now(self) -> datetime:
        """Return the one instant that this transaction stamps."""
        ...

    @property
    def answers(self) -> AllAnswers:
        """Return earlier answers to all tenants."""
        ...

    @property
    def jobs(self) -> Jobs:
        """Return all jobs."""
        ...

    @property
    def attempts(self) -> Attempts:
        """Return all attempts."""
        ...

    @property
    def deployments(self) -> Deployments:
        """Return all deployments."""
        ...

    @property
    def replicas(self) -> Replicas:
        """Return all replicas."""
        ...

    @property
    def nodes(self) -> Nodes:
        """Return the nodes."""
        ...

    @property
    def line(self) -> Line:
        """Return who waits for capacity."""
        ...

    @property
    def usage(self) -> KeptUsage:
        """Return what tenants held lately."""
        ...

    @property
    def leavings(self) -> Leavings:
        """Return what is to be deleted of tenants."""
        ...

    async def hold(self, lease: Lease) -> None:
        """Begin a lease holder's transaction with this; raises Conflict when it is over."""
        ...

    async def seize(self, name: str, *, holder: str, unheld_for: timedelta) -> Lease | None:
        """Take a lease that nobody has held for so long, by the database's clock, with the commit.

        It can be held in later transactions until somebody takes it, which anybody may at once.
        None when it was held since.
        """
        ...

    def emit(self, fact: Fact) -> None:
        """Publish a fact if and only if this transaction commits."""
        ...


class Reading(Protocol):
    """What can be read without a transaction."""

    @property
    def attempts(self) -> SeenAttempts:
        """Return those that are open."""
        ...

    @property
    def fleet(self) -> Fleet:
        """Return what callers may know of the nodes."""
        ...

    @property
    def nodes(self) -> NodesAtWork:
        """Return where something could be placed."""
        ...

    @property
    def line(self) -> SeenLine:
        """Return who waits for capacity."""
        ...

    @property
    def usage(self) -> Usage:
        """Return what tenants held lately."""
        ...


class UnitOfWork(Protocol):
    """Opens transactions."""

    def __call__(self, tenant: TenantId) -> AbstractAsyncContextManager[Transaction]:
        """Open one for a tenant."""
        ...

    def system(self, *, because: str) -> AbstractAsyncContextManager[SystemTransaction]:
        """Open one that is no tenant's."""
        ...

    def reading(self, *, because: str) -> AbstractAsyncContextManager[Reading]:
        """Open for reads that each stand alone: quicker than a transaction."""
        ...


class ModelCatalog(Protocol):
    """The model registry, as far as deployments need it."""

    async def resolve(self, reference: ModelReference) -> ModelPin:
        """Return the version that this names in the caller's tenant; raises NotFound."""
        ...
