"""The scheduler's rows in a `Database`: the ports of its use cases, for jobs.

Leaves out deployments and purges, which the simulation does not run yet. Reads and locks are those
of `services/scheduler/adapters/postgres`.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import ClassVar, Final

from services.chassis.db.lease import HeldLease
from services.chassis.errors import Conflict, InProgress, KeyReused, NotFound
from services.chassis.events.envelope import NewEvent
from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import Attempt, OwnerKind
from services.scheduler.domain.attempts.ending import EndReason
from services.scheduler.domain.attempts.work import AttemptWork, JobWork
from services.scheduler.domain.fleet.loss import UnheldNode
from services.scheduler.domain.fleet.node import HeldWork, Node, lease_name
from services.scheduler.domain.fleet.reach import FleetDoors, FleetReach
from services.scheduler.domain.identities import AttemptId, JobId, NodeId
from services.scheduler.domain.jobs.array import ElementCounts
from services.scheduler.domain.jobs.job import ENDED, Job, JobState
from services.scheduler.domain.jobs.spec import PRIORITY_MAX
from services.scheduler.domain.jobs.stats import JobEnds, JobTimes, JobWaits
from services.scheduler.domain.queues.queue import Pause, Queue
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.history import RUNS_MAX, expected_in_s
from services.scheduler.domain.scheduling.line import Head, LineChange, Shape, Totals, Waiting
from services.scheduler.domain.scheduling.place import Standing
from services.scheduler.domain.scheduling.plan import Holding
from services.scheduler.domain.scheduling.preemption import Running
from services.scheduler.domain.scheduling.shares import Averages
from services.scheduler.use_cases.ports import (
    FIRST_JOBS_MAX,
    FIRST_SHAPES_MAX,
    Deployments,
    Fact,
    FirstInLine,
    Lease,
    Leavings,
    LineNews,
    Repeatable,
    Replicas,
    RequestKey,
    TenantDeployments,
)
from tests.simulation.database import ANSWERS, LEASES, TURNS, Client, Table, Transaction


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job and its place in line."""

    job: Job
    queue_seq: int

    @property
    def turn(self) -> tuple[int, int]:
        """Return what orders those of one tenant and priority."""
        return (self.queue_seq, self.job.array_index)


@dataclass(frozen=True, slots=True)
class LineChangeRow:
    """That something about a job in line has changed."""

    number: int
    job_id: JobId


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What all tenants held lately."""

    averages: Averages


JOBS: Final[Table[JobId, JobRow]] = Table("job")
LINE_CHANGES: Final[Table[int, LineChangeRow]] = Table("line_change")
USAGE: Final[Table[str, UsageRow]] = Table("tenant_usage")
ATTEMPTS: Final[Table[AttemptId, Attempt]] = Table("attempt")
NODES: Final[Table[NodeId, Node]] = Table("node")
PAUSES: Final[Table[tuple[TenantId, str], tuple[TenantId, Pause]]] = Table("queue")
"""Queues that are paused."""

Listener = Callable[[Fact], None]


class MemoryJobs:
    """All tenants' jobs; implements `ports.Jobs`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._read: dict[JobId, int] = {}

    async def add(self, jobs: Sequence[Job]) -> None:
        """Put new jobs last in line, in this order."""
        for job in jobs:
            self._write(JobRow(job, await self._tx.server.number()))

    async def add_elements(self, elements: Sequence[Job]) -> None:
        """Store what was split off arrays; the database lets an index of one have one."""
        rows = await self._tx.server.ask(lambda: self._tx.server.all(JOBS))
        places = {row.job.id: row.queue_seq for row in rows}
        there = {row.job.element for row in rows}
        for job in elements:
            assert job.element is not None, "it is an array's"
            assert job.element not in there, f"uq_job_element: {job.element} is a job"
            there.add(job.element)
            self._write(JobRow(job, places[job.element.array_id]))

    async def some(self, job_ids: Sequence[JobId]) -> Sequence[Job]:
        """Return those of the jobs that there are."""
        server = self._tx.server
        found = await server.ask(lambda: [server.read(JOBS, each) for each in job_ids])
        return [row.job for row in found if row is not None]

    async def expired(self, *, at: datetime, limit: int) -> Sequence[JobId]:
        """Return jobs that have stood in line for as long as they may."""
        rows = await self._tx.server.ask(lambda: self._tx.server.all(JOBS))
        return sorted(
            row.job.id
            for row in rows
            if row.job.state is JobState.QUEUED
            and row.job.queue_expires_at is not None
            and row.job.queue_expires_at <= at
        )[:limit]

    async def releasable(self, *, limit: int) -> Sequence[JobId]:
        """Return jobs in line that wait for one that has ended, or is gone."""
        return (await self._tx.server.ask(self._releasable))[:limit]

    def _releasable(self) -> list[JobId]:
        jobs = {row.job.id: row.job for row in self._tx.server.all(JOBS)}
        living = {(job.tenant, job.id) for job in jobs.values() if job.state not in ENDED}
        return sorted(
            job.id
            for job in jobs.values()
            if any((job.tenant, needed.job_id) not in living for needed in job.needs)
        )

    async def arrays_without_open(self, *, limit: int) -> Sequence[JobId]:
        """Return arrays that have not ended, but all of whose elements have."""
        jobs = [row.job for row in await self._tx.server.ask(lambda: self._tx.server.all(JOBS))]
        going_on = {job.element.array_id for job in jobs if job.element and not job.is_terminal}
        return sorted(
            job.id
            for job in jobs
            if job.is_array
            and job.state in {JobState.RUNNING, JobState.STOPPING}
            and job.id not in going_on
        )[:limit]

    async def of_stopping_arrays(self, *, limit: int) -> Sequence[JobId]:
        """Return elements that nobody has asked to stop for good, of arrays that are to stop."""
        jobs = [row.job for row in await self._tx.server.ask(lambda: self._tx.server.all(JOBS))]
        stopping = {job.id for job in jobs if job.is_array and job.state is JobState.STOPPING}
        return sorted(
            job.id
            for job in jobs
            if job.element is not None
            and job.element.array_id in stopping
            and not job.is_terminal
            and (job.stop is None or job.stop.is_for_now)
        )[:limit]

    async def element_counts(
        self, tenant: TenantId, array_ids: Sequence[JobId]
    ) -> Mapping[JobId, ElementCounts]:
        """Return how many of each array's elements are jobs in each state."""
        rows = await self._tx.server.ask(lambda: self._tx.server.all(JOBS))
        counts: dict[JobId, Counter[JobState]] = {array_id: Counter() for array_id in array_ids}
        for job in (row.job for row in rows if row.job.tenant == tenant):
            if job.element is not None and job.element.array_id in counts:
                counts[job.element.array_id][job.state] += 1
        return counts

    async def states(self, tenant: TenantId, job_ids: Sequence[JobId]) -> Mapping[JobId, JobState]:
        """Return where those of a tenant's jobs are that there are."""
        jobs = await self.some(job_ids)
        return {job.id: job.state for job in jobs if job.tenant == tenant}

    async def retried_count(self, tenant: TenantId, *, since: datetime) -> int:
        """Count a tenant's jobs whose last retry began, or will begin, after an instant."""
        rows = await self._tx.server.ask(lambda: self._tx.server.all(JOBS))
        return sum(
            row.job.tenant == tenant and row.job.retry_at is not None and row.job.retry_at > since
            for row in rows
        )

    async def get_any(self, job_id: JobId) -> Job:
        """Return a job, locked."""
        row = await self._tx.server.lock(JOBS, job_id)
        if row is None:
            raise NotFound("job", job_id)
        return self.read(row.job)

    async def queued(self, job_ids: Sequence[JobId]) -> Sequence[Job]:
        """Return those that still stand in line, locked one after another."""
        found = []
        for job_id in sorted(job_ids):
            row = await self._tx.server.lock(JOBS, job_id)
            if row is not None and row.job.state is JobState.QUEUED:
                found.append(self.read(row.job))
        return found

    async def placed(self, tenants: Sequence[TenantId], *, limit: int) -> Sequence[JobId]:
        """Return jobs of these tenants that run or will."""
        jobs = await self._tx.server.ask(lambda: self._tx.server.all(JOBS))
        return sorted(
            row.job.id for row in jobs if row.job.is_placed and row.job.tenant in tenants
        )[:limit]

    async def placed_on_drained(self, *, limit: int) -> Sequence[JobId]:
        """Return jobs on nodes that are drained, which run or will."""

        def query() -> list[JobId]:
            nodes = self._tx.server.all(NODES)
            drained = {node.id for node in nodes if node.draining_since is not None}
            there = {
                attempt.owner.id
                for attempt in self._tx.server.all(ATTEMPTS)
                if not attempt.is_terminal and attempt.node_id in drained
            }
            jobs = self._tx.server.all(JOBS)
            return [row.job.id for row in jobs if row.job.is_placed and row.job.id in there]

        return sorted(await self._tx.server.ask(query))[:limit]

    async def save(self, job: Job) -> None:
        """Store a job over the version that was read."""
        row = await self._tx.server.lock(JOBS, job.id)
        if row is None or row.job.version != self._read[job.id]:
            raise Conflict("job", job.id)
        self._write(replace(row, job=job), before=row)
        self._read[job.id] = job.version

    async def admit(self, jobs: Sequence[Job]) -> None:
        """Store jobs that this transaction has read, and then admitted."""
        for job in jobs:
            await self.save(job)

    def _write(self, row: JobRow, *, before: JobRow | None = None) -> None:
        """Write a row as the triggers of the table see it."""
        self._tx.server.write(JOBS, row.job.id, row)
        if any(each.job.state is JobState.QUEUED for each in (row, before) if each is not None):
            number = self._tx.server.next_number()
            self._tx.server.write(LINE_CHANGES, number, LineChangeRow(number, row.job.id))

    def read(self, job: Job) -> Job:
        """Note the version that this transaction decides on."""
        self._read[job.id] = job.version
        return job


class MemoryTenantJobs:
    """One tenant's jobs; implements `ports.TenantJobs`."""

    def __init__(self, tx: Transaction, tenant: TenantId) -> None:
        self._tx = tx
        self._tenant = tenant
        self._jobs = MemoryJobs(tx)

    async def get(self, job_id: JobId) -> Job:
        """Return a job of this tenant."""
        row = await self._tx.server.ask(lambda: self._tx.server.read(JOBS, job_id))
        return self._jobs.read(self._ours(row, job_id))

    async def get_for_update(self, job_id: JobId) -> Job:
        """Return a job of this tenant, locked."""
        row = await self._tx.server.ask(lambda: self._tx.server.read(JOBS, job_id))
        self._ours(row, job_id)
        row = await self._tx.server.lock(JOBS, job_id)
        return self._jobs.read(self._ours(row, job_id))

    async def save(self, job: Job) -> None:
        """Store a job that this transaction has read."""
        await self._jobs.save(job)

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
        """Return a page of this tenant's jobs."""
        jobs = [row.job for row in await self._all()]
        found = [
            job
            for job in jobs
            if (before is None or job.id < before)
            and (not states or job.state in states)
            and labels.items() <= job.spec.labels.items()
            and queue in {None, job.spec.queue}
            and array_id == (job.element.array_id if job.element is not None else None)
            and array_index in {None, job.array_index}
        ]
        return sorted(found, key=lambda job: job.id, reverse=True)[:limit]

    async def states(self, job_ids: Sequence[JobId]) -> Mapping[JobId, JobState]:
        """Return where those of the jobs are that there are, of this tenant."""
        return await self._jobs.states(self._tenant, job_ids)

    async def element_counts(self, array_ids: Sequence[JobId]) -> Mapping[JobId, ElementCounts]:
        """Return how many of each array's elements are jobs in each state, of this tenant."""
        return await self._jobs.element_counts(self._tenant, array_ids)

    async def attempts(
        self, job_id: JobId, *, after: AttemptId | None, limit: int
    ) -> Sequence[Attempt]:
        """Return a page of a job's attempts."""
        server = self._tx.server
        attempts = await server.ask(lambda: server.all(ATTEMPTS))
        ours = {
            each.id: each
            for each in attempts
            if each.owner.id == job_id and each.tenant == self._tenant
        }
        shown = (0, 0) if after is None else (ours[after].number, ours[after].task)
        found = {(attempt.number, attempt.task): attempt for attempt in ours.values()}
        return [found[place] for place in sorted(found) if place > shown][:limit]

    async def waits(self, *, since: datetime, limit: int) -> Sequence[JobWaits]:
        """Return how long those waited that were first admitted since then."""
        server = self._tx.server
        attempts = await server.ask(lambda: server.all(ATTEMPTS))
        firsts = [
            each
            for each in attempts
            if each.tenant == self._tenant
            and (each.number, each.task) == (1, 0)
            and each.created_at >= since
        ]
        waits: dict[tuple[str, int], list[timedelta]] = {}
        for first in sorted(firsts, key=lambda each: each.created_at)[-limit:]:
            row = server.read(JOBS, JobId(first.owner.id))
            if row is not None:
                waited = first.created_at - row.job.created_at
                group = (row.job.spec.queue, -row.job.spec.priority)
                waits.setdefault(group, []).append(waited)
        return [
            JobWaits(queue, -priority, _times(waits[queue, priority]))
            for queue, priority in sorted(waits)
        ]

    async def ends(self, *, since: datetime, limit: int) -> Sequence[JobEnds]:
        """Return how those ended that did so since then."""
        ended = [
            (row.job.ended_at, row.job)
            for row in await self._all()
            if row.job.ended_at is not None and row.job.ended_at >= since and not row.job.is_array
        ]
        jobs: dict[JobState, list[timedelta | None]] = {}
        for ended_at, job in sorted(ended, key=lambda each: each[0])[-limit:]:
            ran = None if job.started_at is None else ended_at - job.started_at
            jobs.setdefault(job.state, []).append(ran)
        return [
            JobEnds(
                state, len(jobs[state]), _times([each for each in jobs[state] if each is not None])
            )
            for state in sorted(jobs)
        ]

    async def booked(self) -> Resources:
        """Return what all that runs of this tenant takes together."""
        held = await MemoryAttempts(self._tx).held()
        return held.get(self._tenant, Resources())

    async def _all(self) -> list[JobRow]:
        rows = await self._tx.server.ask(lambda: self._tx.server.all(JOBS))
        return [row for row in rows if row.job.tenant == self._tenant]

    def _ours(self, row: JobRow | None, job_id: JobId) -> Job:
        if row is None or row.job.tenant != self._tenant:
            raise NotFound("job", job_id)
        return row.job


class MemoryTenantQueues:
    """One tenant's queues; implements `ports.TenantQueues`."""

    def __init__(self, tx: Transaction, tenant: TenantId) -> None:
        self._tx = tx
        self._tenant = tenant

    async def pauses(self) -> Mapping[str, Pause]:
        """Return this tenant's pauses, by queue."""
        return await self._tx.server.ask(self._pauses)

    async def pauses_for_update(self) -> Mapping[str, Pause]:
        """Return this tenant's pauses, by queue, alone."""
        await self._tx.server.lock(TURNS, f"pauses of {self._tenant}")
        return await self.pauses()

    async def pause(self, pause: Pause) -> None:
        """Store a pause of a queue that has none."""
        self._tx.server.write(PAUSES, (self._tenant, pause.queue), (self._tenant, pause))

    async def resume(self, name: str) -> None:
        """End a queue's pause, if there is one."""
        await self._tx.server.lock(PAUSES, (self._tenant, name))
        self._tx.server.write(PAUSES, (self._tenant, name), None)

    async def get(self, name: str) -> Queue:
        """Return a queue, also one of which there is nothing."""
        return (await self._tx.server.ask(self._queues)).get(name, Queue(name))

    async def page(self, *, after: str | None, limit: int) -> Sequence[Queue]:
        """Return a page of this tenant's queues."""
        queues = await self._tx.server.ask(self._queues)
        return [queues[name] for name in sorted(queues) if name > (after or "")][:limit]

    def _pauses(self) -> dict[str, Pause]:
        server = self._tx.server
        return {pause.queue: pause for of, pause in server.all(PAUSES) if of == self._tenant}

    def _queues(self) -> dict[str, Queue]:
        ours = [row.job for row in self._tx.server.all(JOBS) if row.job.tenant == self._tenant]
        living = [job for job in ours if not job.is_terminal]
        queued: Counter[str] = Counter()
        for job in living:
            queued[job.spec.queue] += job.rest_count * (job.state is JobState.QUEUED)
        running = Counter(
            job.spec.queue
            for job in living
            if job.state is not JobState.QUEUED and not job.is_array
        )
        pauses = self._pauses()
        return {
            name: Queue(name, pauses.get(name), queued[name], running[name])
            for name in {*queued, *running, *pauses}
        }


def _times(lengths: Sequence[timedelta]) -> JobTimes:
    """Return percentiles as PostgreSQL's percentile_cont does."""
    lengths = sorted(max(each, timedelta(0)) for each in lengths)
    return JobTimes(len(lengths), p50=_percentile(lengths, 0.5), p99=_percentile(lengths, 0.99))


def _percentile(lengths: Sequence[timedelta], fraction: float) -> timedelta | None:
    if not lengths:
        return None
    place = fraction * (len(lengths) - 1)
    below, above = lengths[int(place)], lengths[min(int(place) + 1, len(lengths) - 1)]
    return below + (above - below) * (place - int(place))


def _end_of(held: Holding) -> timedelta:
    return timedelta.max if held.ends_in is None else held.ends_in


def _mean(lengths: Sequence[timedelta]) -> timedelta:
    return sum(lengths, timedelta(0)) / len(lengths)


class MemoryAttempts:
    """All tenants' attempts; implements `ports.Attempts` and `ports.OpenAttempts`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._read: dict[AttemptId, int] = {}

    async def add(self, attempts: Sequence[Attempt]) -> None:
        """Store new attempts."""
        for attempt in attempts:
            await self._add(attempt)

    async def _add(self, attempt: Attempt) -> None:
        """Store one; the database lets a task of an owner have one open one."""
        others = await self._tx.server.ask(lambda: self._tx.server.all(ATTEMPTS))
        assert not any(
            (other.owner.id, other.task) == (attempt.owner.id, attempt.task)
            and (not other.is_terminal or other.number == attempt.number)
            for other in others
        ), f"uq_attempt_open_owner: {attempt.owner.id} has an open attempt"
        created_at = self._tx.server.database_now
        self._tx.server.write(ATTEMPTS, attempt.id, replace(attempt, created_at=created_at))

    async def goes_on(self, job_id: JobId, *, number: int) -> bool:
        """Tell whether one of the attempts of this number at a job is open."""
        return any(each.number == number for each in await self._open_of(job_id))

    async def nodes_of(self, job_id: JobId) -> Sequence[NodeId]:
        """Return the nodes on which a job has open attempts, by id."""
        return sorted({each.node_id for each in await self._open_of(job_id)})

    async def _open_of(self, job_id: JobId) -> list[Attempt]:
        attempts = await self._tx.server.ask(lambda: self._tx.server.all(ATTEMPTS))
        return [each for each in attempts if each.owner.id == job_id and not each.is_terminal]

    async def get(self, attempt_id: AttemptId) -> Attempt:
        """Return an attempt, locked."""
        attempt = await self._tx.server.lock(ATTEMPTS, attempt_id)
        if attempt is None:
            raise NotFound("attempt", attempt_id)
        self._read[attempt_id] = attempt.version
        return attempt

    async def save(self, attempt: Attempt) -> None:
        """Store an attempt over the version that was read."""
        row = await self._tx.server.lock(ATTEMPTS, attempt.id)
        if row is None or row.version != self._read[attempt.id]:
            raise Conflict("attempt", attempt.id)
        self._tx.server.write(ATTEMPTS, attempt.id, attempt)
        self._read[attempt.id] = attempt.version

    async def held(self) -> Mapping[TenantId, Resources]:
        """Return what the open attempts of each tenant take together."""
        attempts = await self._tx.server.ask(lambda: self._tx.server.all(ATTEMPTS))
        held: defaultdict[TenantId, Resources] = defaultdict(Resources)
        for attempt in attempts:
            if not attempt.is_terminal:
                held[attempt.tenant] += attempt.resources
        return held

    async def ends(self, attempt_ids: Sequence[AttemptId]) -> Mapping[AttemptId, datetime | None]:
        """Return when each that is known ended."""
        server = self._tx.server
        found = await server.ask(lambda: [server.read(ATTEMPTS, each) for each in attempt_ids])
        return {attempt.id: attempt.ended_at for attempt in found if attempt is not None}

    async def holdings(self, *, soonest: int | None = None) -> Sequence[Holding]:
        """Return what open attempts hold, and for how long at most."""
        found = await self._tx.server.ask(self._holdings)
        if soonest is None:
            return found
        return sorted(found, key=_end_of)[:soonest]

    async def does_any_end(self) -> bool:
        """Tell whether an open attempt is a job's."""
        return any(each.ends_in is not None for each in await self.holdings())

    def _holdings(self) -> list[Holding]:
        found = []
        for attempt in self._tx.server.all(ATTEMPTS):
            if attempt.is_terminal:
                continue
            row = self._tx.server.read(JOBS, JobId(attempt.owner.id))
            ends_in = None if row is None else self._ends_in(attempt, row.job)
            held = Holding(attempt.node_id, attempt.tenant, attempt.resources, ends_in)
            found.append(held._replace(expected_in=self._expected_in(attempt)))
        return found

    def _expected_in(self, attempt: Attempt) -> timedelta | None:
        if attempt.run_expected is None:
            return None
        placed_for = self._tx.server.database_now - attempt.created_at
        expected_s = expected_in_s(
            attempt.run_expected.total_seconds(), placed_for_s=placed_for.total_seconds()
        )
        return timedelta(seconds=expected_s)

    async def took(
        self, templates: Collection[tuple[TenantId, str]]
    ) -> Mapping[tuple[TenantId, str], timedelta]:
        """Return how long the latest of tenants' templates took that succeeded, on average."""
        return await self._tx.server.ask(lambda: self._took(templates))

    def _took(
        self, templates: Collection[tuple[TenantId, str]]
    ) -> Mapping[tuple[TenantId, str], timedelta]:
        ends: defaultdict[tuple[TenantId, str], list[tuple[datetime, timedelta]]]
        ends = defaultdict(list)
        for each in self._tx.server.all(ATTEMPTS):
            of = (each.tenant, each.template)
            is_success = each.ending is not None and each.ending.reason is EndReason.SUCCEEDED
            if of in templates and is_success and each.task == 0 and each.ended_at is not None:
                ends[of].append((each.ended_at, each.ended_at - each.created_at))
        return {
            of: _mean([took for _, took in sorted(theirs)[-RUNS_MAX:]])
            for of, theirs in ends.items()
        }

    async def running(self, *, preemptible_by: int) -> Sequence[Running]:
        """Return all that has open attempts, if a placed job of it has less than this priority."""
        running = await self._tx.server.ask(self._running)
        is_any = any(
            each.priority is not None and each.priority < preemptible_by and not each.is_stopping
            for each in running
        )
        return running if is_any else []

    def _running(self) -> list[Running]:
        found: dict[str, Running] = {}
        for attempt in self._tx.server.all(ATTEMPTS):
            if attempt.is_terminal:
                continue
            if (earlier := found.get(attempt.owner.id)) is not None:
                more = earlier.with_another(attempt.node_id, attempt.resources)
                found[attempt.owner.id] = more
                continue
            row = self._tx.server.read(JOBS, JobId(attempt.owner.id))
            each = Running(
                attempt.owner.id,
                attempt.tenant,
                {attempt.node_id: attempt.resources},
                self._tx.server.database_now - attempt.created_at,
            )
            if row is not None:
                each = replace(
                    each,
                    priority=row.job.priority,
                    attempt_id=row.job.attempt_id,
                    ends_in=self._ends_in(attempt, row.job),
                    stop_grace=row.job.spec.timeouts.stop_grace,
                    is_stopping=not row.job.is_placed,
                )
            found[each.id] = each
        return list(found.values())

    def _ends_in(self, attempt: Attempt, job: Job) -> timedelta:
        now, timeouts = self._tx.server.database_now, job.spec.timeouts
        run_max = timeouts.run if attempt.run_max is None else attempt.run_max
        ends_at = attempt.created_at + run_max
        if job.stop is not None:
            ends_at = min(ends_at, min(job.stop.requested_at, now) + timeouts.stop_grace)
        return max(timedelta(0), ends_at - now)

    async def open_on_node(self, node_id: NodeId) -> Sequence[AttemptWork]:
        """Return what is open on a node, oldest first."""
        return await self._tx.server.ask(lambda: self._open_on_node(node_id))

    def _open_on_node(self, node_id: NodeId) -> list[AttemptWork]:
        found = []
        for attempt in self._tx.server.all(ATTEMPTS):
            if attempt.node_id != node_id or attempt.is_terminal:
                continue
            row = self._tx.server.read(JOBS, JobId(attempt.owner.id))
            assert row is not None, "an attempt has an owner"
            job = row.job
            found.append(
                AttemptWork(
                    attempt,
                    JobWork.of(job),
                    job.stop,
                    is_current=job.attempt_number == attempt.number,
                    placed_for=self._tx.server.database_now - attempt.created_at,
                )
            )
        return sorted(found, key=lambda work: work.attempt.id)


class MemoryNodes:
    """The nodes; implements `ports.Nodes` and `ports.Fleet`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    async def register(
        self,
        node_id: NodeId,
        capacity: Resources,
        *,
        runtime: str,
        allows_mixed_tenants: bool,
    ) -> bool:
        """Add a node or change what it has; tell whether it counts as lost."""
        node = await self._tx.server.lock(NODES, node_id)
        now = self._tx.server.database_now
        node = node or Node(node_id, capacity, Resources(), now, runtime, None)
        seen = replace(
            node,
            capacity=capacity,
            runtime=runtime,
            allows_mixed_tenants=allows_mixed_tenants,
            heartbeat_at=now,
        )
        self._tx.server.write(NODES, node_id, seen)
        return seen.lost_at is not None

    async def heartbeat(self, node_id: NodeId, *, is_runtime_up: bool) -> None:
        """Note that the node's runner is alive, and whether its runtime is."""
        node = await self._locked(node_id)
        now = self._tx.server.database_now
        down_since = None if is_runtime_up else node.runtime_down_since or now
        seen = replace(node, heartbeat_at=now, runtime_down_since=down_since)
        self._tx.server.write(NODES, node_id, seen)

    async def get(self, node_id: NodeId) -> Node:
        """Return a node, locked, with what it holds."""
        [node] = await self._with_what_they_hold([await self._locked(node_id)])
        return node

    async def some(self, node_ids: Collection[NodeId]) -> Sequence[Node]:
        """Return nodes by id, locked one after another, with what they hold."""
        return [await self.get(node_id) for node_id in sorted(node_ids)]

    async def at_work(self, *, silence_max: timedelta) -> Sequence[Node]:
        """Return open nodes with a recent heartbeat whose runtime answers, with what they hold."""
        nodes, _ = await self.first(limit=1_000)
        return await self._with_what_they_hold(
            [
                node
                for node in nodes
                if self._is_alive(node, silence_max)
                and node.runtime_down_since is None
                and node.cordoned_at is None
                and node.lost_at is None
            ]
        )

    async def fingerprint_at_work(self, *, silence_max: timedelta) -> str:
        """Return what tells nodes at work apart from themselves at another time."""
        at_work = await self.at_work(silence_max=silence_max)
        return repr(
            [(each.id, each.capacity, each.used, each.allows_mixed_tenants) for each in at_work]
        )

    async def capacity_at_work(self, *, silence_max: timedelta) -> Resources:
        """Return what those nodes have, all together."""
        at_work = await self.at_work(silence_max=silence_max)
        return sum((node.capacity for node in at_work), Resources())

    async def alive(
        self, node_ids: Sequence[NodeId], *, silence_max: timedelta
    ) -> Collection[NodeId]:
        """Return those of the nodes that have a recent heartbeat."""
        nodes, _ = await self.first(limit=1_000)
        return {
            node.id for node in nodes if node.id in node_ids and self._is_alive(node, silence_max)
        }

    def _is_alive(self, node: Node, silence_max: timedelta) -> bool:
        return node.heartbeat_at >= self._tx.server.database_now - silence_max

    async def _with_what_they_hold(self, nodes: Sequence[Node]) -> Sequence[Node]:
        """Say of nodes whose work they hold, where that keeps others' away."""
        if all(node.allows_mixed_tenants for node in nodes):
            return nodes
        attempts = await self._tx.server.ask(lambda: self._tx.server.all(ATTEMPTS))
        return [
            node if node.allows_mixed_tenants else replace(node, holds=_held(attempts, on=node.id))
            for node in nodes
        ]

    async def _locked(self, node_id: NodeId) -> Node:
        node = await self._tx.server.lock(NODES, node_id)
        if node is None:
            raise NotFound("node", node_id)
        return node

    async def draining(self) -> Mapping[NodeId, datetime]:
        """Return since when nodes are drained."""
        nodes, _ = await self.first(limit=1_000)
        return {node.id: node.draining_since for node in nodes if node.draining_since is not None}

    async def unheld(self, *, limit: int) -> Sequence[UnheldNode]:
        """Return nodes whose lease nobody holds, the longest first."""
        return (await self._tx.server.ask(self._unheld))[:limit]

    def _unheld(self) -> list[UnheldNode]:
        server, now = self._tx.server, self._tx.server.database_now
        has_open = {each.node_id for each in server.all(ATTEMPTS) if not each.is_terminal}
        found = []
        for node in server.all(NODES):
            lease = server.read(LEASES, lease_name(node.id))
            if lease is None or lease.expires_at >= now:
                continue
            if node.lost_at is None or node.id in has_open:
                found.append(UnheldNode(node.id, lease.expires_at, now - lease.expires_at))
        return sorted(found, key=lambda node: node.since)

    async def first(self, limit: int) -> tuple[Sequence[Node], int]:
        """Return nodes by id, and how many there are."""
        nodes = await self._tx.server.ask(lambda: self._tx.server.all(NODES))
        return sorted(nodes, key=lambda node: node.id)[:limit], len(nodes)

    async def save(self, node: Node) -> None:
        """Store what is used of a node, and whether it is open."""
        locked = await self._locked(node.id)
        saved = replace(
            locked,
            used=node.used,
            cordoned_at=node.cordoned_at,
            draining_since=node.draining_since,
            lost_at=node.lost_at,
        )
        self._tx.server.write(NODES, node.id, saved)

    async def book(self, nodes: Sequence[Node]) -> None:
        """Store what is used of nodes."""
        for node in nodes:
            locked = await self._locked(node.id)
            self._tx.server.write(NODES, node.id, replace(locked, used=node.used))

    async def release(self, node_id: NodeId, resources: Resources) -> None:
        """Give an ended attempt's capacity back."""
        node = await self._locked(node_id)
        self._tx.server.write(NODES, node_id, replace(node, used=node.used - resources))

    async def reach_for(self, resources: Resources) -> FleetReach:
        """Tell whether some node is large enough for this."""
        nodes, _ = await self.first(limit=1_000)
        is_enough = not nodes or any(resources.fits_in(node.capacity) for node in nodes)
        return FleetReach(is_enough=is_enough, largest=Resources())

    async def doors_for(
        self, resources: Resources, *, tenant: TenantId, silence_max: timedelta
    ) -> FleetDoors:
        """Tell how many nodes are large enough for this and at work, and whom they take."""
        _, count = await self.first(limit=1_000)
        at_work = await self.at_work(silence_max=silence_max)
        large = [node for node in at_work if resources.fits_in(node.capacity)]
        open_count = sum(node.takes(tenant) for node in large)
        return FleetDoors(
            node_count=count, open_count=open_count, held_count=len(large) - open_count
        )


def _held(attempts: Sequence[Attempt], *, on: NodeId) -> frozenset[HeldWork]:
    """Return whose open attempts are on a node."""
    return frozenset(
        HeldWork(attempt.tenant, attempt.owner.kind)
        for attempt in attempts
        if attempt.node_id == on and not attempt.is_terminal
    )


class MemoryLine:
    """Who waits for capacity; implements `ports.Line`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    async def queued_counts(self, tenants: Sequence[TenantId]) -> Mapping[TenantId, int]:
        """Count jobs in line, alone."""
        for tenant in sorted(tenants):
            await self._tx.server.lock(TURNS, f"line of {tenant}")
        return Counter(row.job.tenant for row in await self._queued() if row.job.tenant in tenants)

    async def queued_count(self, tenant: TenantId) -> int:
        """Count a tenant's jobs in line as they are just now."""
        return sum(row.job.tenant == tenant for row in await self._queued())

    async def standing(self, job_id: JobId) -> Standing:
        """Return how many jobs whose turns can come stand before one in line, and beside it."""
        own = self._tx.server.read(JOBS, job_id)
        if own is None:
            return Standing()
        rows = await self._whose_turns_can_come()
        above = [row for row in rows if row.job.priority > own.job.priority]
        beside = [row for row in rows if row.job.priority == own.job.priority]
        others = {
            tenant: _count(row for row in beside if row.job.tenant == tenant)
            for tenant in {row.job.tenant for row in beside} - {own.job.tenant}
        }
        before = [row for row in beside if row.job.tenant == own.job.tenant and row.turn < own.turn]
        shape = _waiting(own).head.shape
        alike = [row for row in before if _waiting(row).head.shape == shape]
        return Standing(_count(above), _count(before), others, _count(alike))

    async def paused(self) -> Collection[tuple[TenantId, str]]:
        """Return all queues that are paused."""
        pauses = await self._tx.server.ask(lambda: self._tx.server.all(PAUSES))
        return {(tenant, pause.queue) for tenant, pause in pauses}

    async def pausing_count(self, tenant: TenantId, *, at: datetime) -> int:
        """Count a tenant's jobs in line that pause before a retry."""
        ours = [row.job for row in await self._queued() if row.job.tenant == tenant]
        return sum(job.retry_at is not None and job.retry_at > at for job in ours)

    async def first(self, *, at: datetime, each_max: int) -> FirstInLine:
        """Return the first of each shape."""
        alike: defaultdict[Shape, list[Head]] = defaultdict(list)
        for row in sorted(await self._whose_turns_can_come(), key=lambda row: row.turn):
            heads = alike[_waiting(row).head.shape]
            if row.job.retry_at is None or row.job.retry_at <= at:
                heads.append(_waiting(row).head)
        shapes = sorted(alike, key=lambda shape: shape.rank)
        each_max = max(1, min(each_max, FIRST_JOBS_MAX // max(1, len(shapes))))
        seen = shapes[:FIRST_SHAPES_MAX]
        return FirstInLine(
            [head for shape in seen for head in alike[shape][:each_max]],
            each_max,
            is_whole=len(shapes) == len(seen),
        )

    async def everybody(self) -> AsyncIterator[Sequence[Waiting]]:
        """Return all who wait."""
        yield [_waiting(row) for row in await self._queued() if not row.job.needs]

    async def forget_news(self, *, limit: int) -> bool:
        """Delete notes; return whether there may be more."""
        news = await self._tx.server.ask(lambda: self._take_news(limit, with_totals=False))
        return news.is_cut

    async def take_news(self, *, limit: int, with_totals: bool) -> LineNews:
        """Return what has changed, and delete the notes of it."""
        return await self._tx.server.ask(lambda: self._take_news(limit, with_totals=with_totals))

    async def age(self, *, after: timedelta, but_for: Sequence[TenantId], limit: int) -> int:
        """Give those that have waited for so long with their priority the next larger one."""
        jobs, aged_at = MemoryJobs(self._tx), self._tx.server.database_now

        def is_due(job: Job) -> bool:
            since = job.ages_from or job.created_at
            is_let = job.priority < PRIORITY_MAX and job.tenant not in but_for
            return is_let and since <= aged_at - after

        rows = sorted(await self._whose_turns_can_come(), key=lambda row: row.turn)
        due = [row.job.id for row in rows if is_due(row.job)][:limit]
        aged = [job for job in await jobs.queued(due) if is_due(job)]
        for job in aged:
            await jobs.save(replace(job, aged_by=job.aged_by + 1, ages_from=aged_at))
        return len(aged)

    async def mend_counts(self) -> bool:
        """Do nothing: it counts whenever it is asked."""
        return False

    def _take_news(self, limit: int, *, with_totals: bool) -> LineNews:
        server = self._tx.server
        notes = server.all(LINE_CHANGES)[:limit]
        for note in notes:
            server.write(LINE_CHANGES, note.number, None)
        rows = {note.job_id: server.read(JOBS, note.job_id) for note in notes}
        in_line = [
            row
            for row in server.all(JOBS)
            if row.job.state is JobState.QUEUED and not row.job.needs
        ]
        totals = Totals(_count(in_line), sum(row.queue_seq for row in in_line))
        return LineNews(
            [
                LineChange(job_id, _waiting(row) if row in in_line else None)
                for job_id, row in rows.items()
            ],
            is_cut=len(notes) == limit,
            totals=totals if with_totals else None,
        )

    async def _whose_turns_can_come(self) -> list[JobRow]:
        paused = await self.paused()
        return [
            row
            for row in await self._queued()
            if not row.job.needs and (row.job.tenant, row.job.spec.queue) not in paused
        ]

    async def _queued(self) -> list[JobRow]:
        rows = await self._tx.server.ask(lambda: self._tx.server.all(JOBS))
        return [row for row in rows if row.job.state is JobState.QUEUED]


class MemoryUsage:
    """What tenants held lately; implements `ports.KeptUsage`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    async def averages(self) -> Averages:
        """Return it as it was last kept."""
        row = await self._tx.server.ask(lambda: self._tx.server.read(USAGE, ""))
        return Averages() if row is None else row.averages

    async def keep(self, averages: Averages) -> None:
        """Keep this instead of what was kept."""
        self._tx.server.write(USAGE, "", UsageRow(averages))


def _waiting(row: JobRow | None) -> Waiting:
    assert row is not None, "it is in line"
    spec = row.job.spec
    shape = Shape(
        OwnerKind.JOB,
        row.job.tenant,
        row.job.priority,
        spec.resources,
        run_max=spec.timeouts.run,
        queue=spec.queue,
        task_count=spec.task_count,
    )
    job = row.job
    head = Head(job.id, row.queue_seq, shape, job.array_index, job.rest_count)
    return Waiting(head, not_before=job.retry_at)


def _count(rows: Iterable[JobRow]) -> int:
    """Return how many stand in line as these."""
    return sum(row.job.rest_count for row in rows)


class _Emitting:
    """What both kinds of transaction share."""

    def __init__(
        self, tx: Transaction, event_of: Callable[[Fact], NewEvent], listeners: Sequence[Listener]
    ) -> None:
        self._tx = tx
        self._event_of = event_of
        self._listeners = listeners

    @property
    def now(self) -> datetime:
        """Return the one instant that this transaction stamps."""
        return self._tx.now

    def emit(self, fact: Fact) -> None:
        """Publish a fact with the commit."""
        self._tx.emit(self._event_of(fact))
        for listener in self._listeners:
            self._tx.on_commit(partial(listener, fact))


class MemoryTransaction(_Emitting):
    """One tenant's transaction; implements `ports.Transaction`."""

    jobs_type: ClassVar[type[MemoryTenantJobs]] = MemoryTenantJobs

    def __init__(
        self, tx: Transaction, event_of: Callable[[Fact], NewEvent], listeners: Sequence[Listener]
    ) -> None:
        super().__init__(tx, event_of, listeners)
        assert tx.tenant is not None, "it is a tenant's"
        self.answers = MemoryAnswers(tx)
        self.jobs = self.jobs_type(tx, tx.tenant)
        self.queues = MemoryTenantQueues(tx, tx.tenant)
        self.fleet = MemoryNodes(tx)

    @property
    def deployments(self) -> TenantDeployments:
        """Refuse: they are not simulated."""
        raise AssertionError("deployments are not simulated")


class MemorySystemTransaction(_Emitting):
    """A transaction that spans tenants; implements `ports.SystemTransaction`."""

    jobs_type: ClassVar[type[MemoryJobs]] = MemoryJobs
    attempts_type: ClassVar[type[MemoryAttempts]] = MemoryAttempts
    nodes_type: ClassVar[type[MemoryNodes]] = MemoryNodes
    line_type: ClassVar[type[MemoryLine]] = MemoryLine
    usage_type: ClassVar[type[MemoryUsage]] = MemoryUsage

    def __init__(
        self, tx: Transaction, event_of: Callable[[Fact], NewEvent], listeners: Sequence[Listener]
    ) -> None:
        super().__init__(tx, event_of, listeners)
        self.answers = MemoryAllAnswers(tx)
        self.jobs = self.jobs_type(tx)
        self.attempts = self.attempts_type(tx)
        self.nodes = self.nodes_type(tx)
        self.line = self.line_type(tx)
        self.usage = self.usage_type(tx)

    async def hold(self, lease: Lease) -> None:
        """Begin a lease holder's transaction with this."""
        await self._tx.hold(HeldLease(lease.name, lease.holder, lease.epoch))

    async def seize(self, name: str, *, holder: str, unheld_for: timedelta) -> HeldLease | None:
        """Take a lease that nobody has held for so long."""
        return await self._tx.seize(name, holder=holder, unheld_for=unheld_for)

    @property
    def deployments(self) -> Deployments:
        """Refuse: they are not simulated."""
        raise AssertionError("deployments are not simulated")

    @property
    def replicas(self) -> Replicas:
        """Refuse: they are not simulated."""
        raise AssertionError("replicas are not simulated")

    @property
    def leavings(self) -> Leavings:
        """Refuse: purges are not simulated."""
        raise AssertionError("purges are not simulated")


class MemoryReading:
    """Reads that each stand alone; implements `ports.Reading`."""

    def __init__(self, tx: Transaction) -> None:
        self.attempts = MemoryAttempts(tx)
        self.fleet = self.nodes = MemoryNodes(tx)
        self.line = MemoryLine(tx)
        self.usage = MemoryUsage(tx)


class MemoryAnswers:
    """Earlier answers; implements `ports.Answers`."""

    def __init__(self, tx: Transaction) -> None:
        assert tx.tenant is not None, "it is a tenant's"
        self._tx = tx
        self._tenant = tx.tenant

    async def remember(self, method: str, key: RequestKey, makes: str) -> str | None:
        """Return the id that an equal earlier request made, if any."""
        return await self._tx.remember(
            method,
            key.key,
            tenant=self._tenant,
            request_hash=key.request_hash,
            response=makes,
        )


class MemoryAllAnswers:
    """Earlier answers to all tenants; implements `ports.AllAnswers`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    async def remember(
        self, method: str, asked: Sequence[Repeatable]
    ) -> Sequence[str | KeyReused | InProgress | None]:
        """Answer each; in the order of their keys, so that nobody waits in a ring."""
        found: dict[tuple[str, str], str | KeyReused | InProgress | None] = {}
        for each in sorted(asked, key=_place):
            try:
                found[_place(each)] = await self._tx.remember(
                    method,
                    each.key.key,
                    tenant=each.tenant,
                    request_hash=each.key.request_hash,
                    response=each.makes,
                )
            except KeyReused as refused:
                found[_place(each)] = refused
        return [found[_place(each)] for each in asked]

    async def forget(self, method: str, asked: Sequence[Repeatable]) -> None:
        """Take back what this transaction has remembered."""
        for each in asked:
            self._tx.server.write(ANSWERS, (each.tenant, method, each.key.key), None)


def _place(asked: Repeatable) -> tuple[str, str]:
    return (asked.tenant, asked.key.key)


class MemoryUnitOfWork:
    """Opens transactions on the scheduler's database; implements `ports.UnitOfWork`."""

    def __init__(
        self,
        client: Client,
        event_of: Callable[[Fact], NewEvent],
        *,
        transaction: type[MemoryTransaction] = MemoryTransaction,
        system_transaction: type[MemorySystemTransaction] = MemorySystemTransaction,
    ) -> None:
        self._client = client
        self._event_of = event_of
        self._transaction = transaction
        self._system_transaction = system_transaction
        self._listeners: list[Listener] = []

    def add_listener(self, listener: Listener) -> None:
        """Call this with each fact once it is committed."""
        self._listeners.append(listener)

    @asynccontextmanager
    async def __call__(self, tenant: TenantId) -> AsyncIterator[MemoryTransaction]:
        """Open a transaction for a tenant."""
        async with self._client.begin(tenant) as tx:
            yield self._transaction(tx, self._event_of, self._listeners)

    @asynccontextmanager
    async def system(self, *, because: str) -> AsyncIterator[MemorySystemTransaction]:
        """Open a transaction that is no tenant's."""
        assert because
        async with self._client.begin(None) as tx:
            yield self._system_transaction(tx, self._event_of, self._listeners)

    @asynccontextmanager
    async def reading(self, *, because: str) -> AsyncIterator[MemoryReading]:
        """Open for reads that each stand alone."""
        assert because
        async with self._client.begin(None) as tx:
            yield MemoryReading(tx)
