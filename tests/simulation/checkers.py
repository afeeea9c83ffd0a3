"""What always holds, looked at after every step.

A step is a change outside of processes' memories: a commit, a record that the broker keeps, a
container that changes. Each check looks at what its step has changed; `settled` looks at all of it
once the faults have stopped. Knows the promises, and nothing of how they are kept.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from modelyard.registry.v1 import model_events_pb2
from modelyard.scheduler.v1 import job_events_pb2

from services.chassis.events.envelope import from_headers
from services.chassis.events.ports import Record
from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import (
    Attempt,
    AttemptState,
    attempt_of_container,
)
from services.scheduler.domain.attempts.ending import EndReason
from services.scheduler.domain.attempts.runtime import ContainerPhase
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import AttemptId, JobId, NodeId
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import (
    ARRAY_TRANSITIONS,
    ENDED,
    TRANSITIONS,
    Job,
    JobState,
    StopCause,
)
from services.scheduler.domain.jobs.spec import DependencyCondition
from services.scheduler.domain.resources import Resources
from services.scheduler.entrypoints.facts import ATTEMPT_LIFECYCLE, JOB_LIFECYCLE
from tests.simulation.database import LEASES, OUTBOX, Commit, Database
from tests.simulation.engine import Container, Engine
from tests.simulation.registry_store import MODELS, VERSIONS
from tests.simulation.scheduler_store import ATTEMPTS, JOBS, LINE_CHANGES, NODES, PAUSES, JobRow
from tests.simulation.wire import Violation

MODEL_LIFECYCLE = "modelyard.model.lifecycle.v1"
PLATFORMS = frozenset(
    {FailureReason.LOST, FailureReason.RUNTIME_ERROR, FailureReason.START_TIMEOUT}
)
"""Failures of which no program is to blame."""
SEEN_WITHIN_S = 15.0
"""Longer than a transaction can stay open: who has waited for so long was there as it began."""
PICTURE_S_MAX = 90.0
"""Longer than any leader goes on with what it knew of a tenant."""
SHARES_EQUAL = 0.05
"""Less than a job's part of the nodes, and more than averages come to in the minutes of a run."""


@dataclass(slots=True)
class Checkers:
    """All that is known of the world from outside."""

    scheduler: Database
    registry: Database
    engines: Mapping[NodeId, Engine]
    plans: Mapping[TenantId, Resources]
    """What tenants with a bound may let run together."""
    preempts: bool
    """Whether jobs make room for those of larger priorities."""
    has_stopped_s: float
    """So long after a node's runner was cut off, if it could act, nothing of it runs any more."""
    awake_for_s: Callable[[NodeId], float] = lambda _: 0.0
    """How long some runner of a node has been able to act."""
    accepted: dict[str, JobId] = field(default_factory=dict)
    """Job by idempotency key: what a client was answered."""
    suspended_at_s: dict[TenantId, float] = field(default_factory=dict)
    """When each tenant's suspension last began or ended."""
    _cancelled: dict[JobId, Job] = field(default_factory=dict)
    """Jobs whose cancellation was answered, as the answer showed them."""
    _waits_since_s: dict[JobId, float] = field(default_factory=dict)
    """Since when a job stands in line."""
    _paused_at_s: dict[tuple[TenantId, str], float] = field(default_factory=dict)
    """Since when each queue is paused that is."""
    _resumed_at_s: dict[tuple[TenantId, str], float] = field(default_factory=dict)
    """When each queue's last pause ended."""
    _ended_at_s: dict[AttemptId, float] = field(default_factory=dict)
    """When each attempt's end was committed."""
    _left_line_at_s: dict[JobId, float] = field(default_factory=dict)
    """When a job that does not stand in line last did."""
    _versions: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    """The newest version of each aggregate that the broker has kept, by topic and key."""
    _starts: dict[str, int] = field(default_factory=dict)
    _left_alone: set[str] = field(default_factory=set)
    """What runs on lost nodes whose runner could not stop it: they may run twice (ADR-0030)."""

    def answered(self, key: str, job_id: JobId) -> None:
        """A repeated request has one effect, and what was accepted is there."""
        earlier = self.accepted.setdefault(key, job_id)
        _require(earlier == job_id, f"{key} made {earlier} and {job_id}")
        _require(job_id in self.scheduler.rows(JOBS), f"{job_id} was accepted and is not there")

    def was_cancelled(self, job: Job) -> None:
        """A client that asked for a job's end was shown this: it never runs again."""
        self._cancelled[job.id] = job

    def committed(self, database: Database, commit: Commit) -> None:
        """Look at the rows that a transaction has changed."""
        self._lease_was_held(database, commit)
        if database is self.scheduler:
            for _, before, after in commit.of(JOBS):
                self._job_moved(before.job if before else None, after.job if after else None)
            self._arrays_are_whole([after.job for _, _, after in commit.of(JOBS) if after])
            self._queues_changed(commit)
            self._nobody_is_passed(commit)
            nodes = {node_id for node_id, _, _ in commit.of(NODES)}
            for attempt_id, former, attempt in commit.of(ATTEMPTS):
                _require(attempt is not None, f"{attempt_id} is gone")
                assert attempt is not None
                self._attempt_moved(former, attempt)
                nodes.add(attempt.node_id)
            for node_id in nodes:
                self._capacity_is_booked_once(node_id)
                self._keeps_tenants_apart(node_id)
            for node_id, was, node in commit.of(NODES):
                if was is not None and was.lost_at and node is not None and not node.lost_at:
                    self._is_tidy(node_id)
        else:
            for _, _, version in commit.of(VERSIONS):
                if version is not None and version.content.lineage is not None:
                    self._is_registered_once(version.content.lineage.job_id)

    def appended(self, record: Record) -> None:
        """Look at a record that the broker has kept: versions come without a gap."""
        if record.topic == JOB_LIFECYCLE:
            job_event = job_events_pb2.JobTransitioned.FromString(record.value or b"")
            key, version, tenant = job_event.job_id, job_event.version, job_event.tenant
            row = self.scheduler.rows(JOBS).get(JobId(key))
            _require(row is not None, f"an event tells of {key}, which is not committed")
            assert row is not None
            _require(row.job.tenant == tenant, f"an event of {key} is told as {tenant}'s")
        elif record.topic == ATTEMPT_LIFECYCLE:
            fact = job_events_pb2.AttemptTransitioned.FromString(record.value or b"")
            key, version, tenant = fact.attempt_id, fact.version, fact.tenant
        elif record.topic == MODEL_LIFECYCLE:
            model_event = model_events_pb2.ModelChanged.FromString(record.value or b"")
            key, version, tenant = model_event.model_id, model_event.revision, model_event.tenant
        else:
            return
        told_by = from_headers(record.headers)["ce_tenant"]
        _require(told_by == tenant, f"{tenant}'s event of {key} bears {told_by}")
        newest = self._versions[record.topic, key]
        _require(version <= newest + 1, f"{key}: version {version} follows {newest}")
        self._versions[record.topic, key] = max(newest, version)

    def changed(self, engine: Engine, container: Container) -> None:
        """Look at a container that has changed, beside the others of its job and node."""
        name = container.status.name
        _require(container.start_count <= 1, f"{name} was started {container.start_count} times")
        if container.status.phase is not ContainerPhase.RUNNING:
            return
        self._starts[name] = self._starts.get(name, 0) + (
            container.before.phase is not ContainerPhase.RUNNING
        )
        _require(self._starts[name] == 1, f"{name} was started again after its removal")
        attempt = self.scheduler.rows(ATTEMPTS).get(attempt_of_container(name))
        _require(attempt is not None, f"{name} runs for an attempt that nobody knows")
        assert attempt is not None
        _require(not attempt.is_terminal, f"{name} starts though its attempt is {attempt.state}")
        _require(self.engines[attempt.node_id] is engine, f"{name} runs on another node")
        labels = container.status.labels
        _require(
            labels.get("modelyard.tenant") == attempt.tenant, f"{name} runs as another tenant's"
        )
        self._runs_once(JobId(attempt.owner.id))
        self._fits(attempt.node_id)
        self._runs_one_tenants(attempt.node_id)
        self._goes_on_from_what_was_kept(container, JobId(attempt.owner.id))

    def settled(self) -> None:
        """Look at everything once: faults are over, and all has had time to end."""
        jobs = {job_id: row.job for job_id, row in self.scheduler.rows(JOBS).items()}
        for key, job_id in self.accepted.items():
            _require(job_id in jobs, f"{job_id}, accepted as {key}, is lost")
        for job in jobs.values():
            _require(job.is_terminal, f"{job.id} is {job.state} for ever: {job.reason}")
            told = self._versions[JOB_LIFECYCLE, job.id]
            _require(told == job.version, f"{job.id} is at {job.version}, told is {told}")
            if job.state is JobState.SUCCEEDED:
                self._is_registered_once(job.id, is_due=True)
            if (shown := self._cancelled.get(job.id)) is not None:
                is_cancelled = job.state is JobState.CANCELLED
                is_first = shown.stop is None or shown.stop.cause is StopCause.CANCELLED
                _require(is_cancelled or not is_first, f"cancelled {job.id} is {job.state}")
        for attempt in self.scheduler.rows(ATTEMPTS).values():
            _require(attempt.is_terminal, f"{attempt.id} is {attempt.state} for ever")
            told = self._versions[ATTEMPT_LIFECYCLE, attempt.id]
            _require(
                told == attempt.version, f"{attempt.id} is at {attempt.version}, told is {told}"
            )
        for node_id, engine in self.engines.items():
            self._capacity_is_booked_once(node_id)
            strays = [container.status.name for container in engine.running()]
            _require(not strays, f"{strays} run on {node_id} for nobody")
        for model in self.registry.rows(MODELS).values():
            told = self._versions[MODEL_LIFECYCLE, model.id]
            _require(told == model.revision, f"{model.name} is at {model.revision}, told is {told}")
        unpublished = [
            row.id
            for database in (self.scheduler, self.registry)
            for row in database.rows(OUTBOX).values()
            if not row.is_published
        ]
        _require(not unpublished, f"{unpublished} were never published")

    def left(self, tenant: TenantId, node_id: NodeId) -> None:
        """Nothing of a suspended tenant runs, and nothing on a node that is drained."""
        for attempt in self._attempts():
            if attempt.is_terminal:
                continue
            _require(attempt.tenant != tenant, f"{attempt.id} of {tenant}, suspended, goes on")
            _require(attempt.node_id != node_id, f"{attempt.id} goes on on {node_id}, drained")

    def unsettled(self) -> str | None:
        """Say what is still under way, if anything."""
        for row in self.scheduler.rows(JOBS).values():
            if not row.job.is_terminal:
                return f"{row.job.id} is {row.job.state}: {row.job.reason}"
        for attempt in self.scheduler.rows(ATTEMPTS).values():
            if not attempt.is_terminal:
                return f"{attempt.id} is {attempt.state}"
        for database in (self.scheduler, self.registry):
            if any(not row.is_published for row in database.rows(OUTBOX).values()):
                return f"{database.name} has events to send"
        jobs = {job_id: row.job for job_id, row in self.scheduler.rows(JOBS).items()}
        for job in self._succeeded(jobs):
            if len(self._effects(job.id)) < len(_registered(job)):
                return f"outputs of {job.id} are not registered"
        if any(engine.running() for engine in self.engines.values()):
            return "containers run"
        return None

    def _lease_was_held(self, database: Database, commit: Commit) -> None:
        lease = commit.lease
        if lease is None:
            return
        row = database.rows(LEASES).get(lease.name)
        _require(
            row is not None and (row.holder, row.epoch) == (lease.holder, lease.epoch),
            f"{lease.holder} has written as epoch {lease.epoch} of {lease.name}, which is {row}",
        )

    def _job_moved(self, before: Job | None, after: Job | None) -> None:
        _require(after is not None, "a job is gone")
        assert after is not None
        self._stands_in_line(after)
        if not after.is_terminal and not after.needs and (before or after.element):
            self._needs_have_ended(after)
        if before is None:
            first = 1 if after.element is None else 2  # it comes with its admission
            _require(after.version == first, f"{after.id} begins at version {after.version}")
            return
        self._room_is_made(before, after)
        _require(before.tenant == after.tenant, f"{after.id} has changed its tenant")
        _require(not before.is_terminal, f"{after.id} was {before.state} and is {after.state}")
        if before.state is after.state and before.version == after.version:
            return
        # One commit may move it twice: what took no time is recorded with what followed.
        steps = after.version - before.version
        _require(
            steps in {1, 2}, f"{after.id} went from version {before.version} to {after.version}"
        )
        ways = {before.state}
        for _ in range(steps):
            table = ARRAY_TRANSITIONS if after.is_array else TRANSITIONS
            ways = {to for state in ways for to in table[state]}
        _require(after.state in ways, f"{after.id} went from {before.state} to {after.state}")
        if after.state is JobState.ADMITTED:
            _require(after.id not in self._cancelled, f"cancelled {after.id} is admitted again")
        if after.state is JobState.ADMITTED and before.retry_at is not None:
            assert after.admitted_at is not None, "who is admitted knows when"
            _require(after.admitted_at >= before.retry_at, f"{after.id} is admitted in its pause")
        if after.state is JobState.QUEUED:
            self._may_return(before, after)
        if after.failure is not None:
            self._may_fail(after, after.failure)

    def _arrays_are_whole(self, jobs: Sequence[Job]) -> None:
        """Each index of an array is a job once, in order; and it ends after the last of them."""
        changed = {job.id for job in jobs if job.is_array}
        changed |= {job.element.array_id for job in jobs if job.element is not None}
        for array_id in changed:
            array = self.scheduler.rows(JOBS)[array_id].job
            elements = [
                row.job
                for row in self.scheduler.rows(JOBS).values()
                if row.job.element is not None and row.job.element.array_id == array_id
            ]
            indices = sorted(job.array_index for job in elements)
            next_index = array.spec.array_size - array.rest_count
            _require(
                indices == list(range(next_index)),
                f"{array_id} goes on with {next_index}, and {indices} are jobs",
            )
            _require(array.attempt_number == 0, f"{array_id} is an array, and was admitted")
            strays = [job.id for job in elements if not job.is_terminal and array.is_terminal]
            _require(not strays, f"{array_id} is {array.state}, and {strays} go on")
            states = {job.state for job in elements}
            is_success = states == {JobState.SUCCEEDED} and not array.rest_count
            _require(
                is_success or array.state is not JobState.SUCCEEDED,
                f"{array_id} has succeeded though its elements are {sorted(states)}",
            )

    def _stands_in_line(self, job: Job) -> None:
        """Note since when a job waits for its turn, or when it last did."""
        if job.state is JobState.QUEUED and not job.needs:
            self._waits_since_s.setdefault(job.id, _virtual_s())
        elif self._waits_since_s.pop(job.id, None) is not None:
            self._left_line_at_s[job.id] = _virtual_s()

    def _attempt_moved(self, before: Attempt | None, after: Attempt) -> None:
        if before is None:
            self._is_open(after.node_id)
            self._is_admitted_whole(JobId(after.owner.id), after.number)
        else:
            _require(not before.is_terminal, f"{after.id} has ended as {before.state}")
        if after.is_terminal:
            self._ended_at_s[after.id] = _virtual_s()
        self._has_one_open_attempt_a_task(JobId(after.owner.id))
        self._ended_at_its_runtime(after)
        self._says_why_it_ended(after)
        self._is_within_plan(after.tenant)

    def _needs_have_ended(self, job: Job) -> None:
        """Who waits for no other job has nothing left to wait for, whatever its row counts."""
        for needed in job.spec.after:
            state = self.scheduler.rows(JOBS)[needed.job_id].job.state
            is_success = needed.condition is DependencyCondition.SUCCESS
            ends = {JobState.SUCCEEDED} if is_success else ENDED
            _require(
                state in ends,
                f"{job.id} goes on though {needed.job_id}, which it needs, is {state}",
            )

    def _room_is_made(self, before: Job, after: Job) -> None:
        """A job makes room for a larger priority alone, and comes back unless it is cancelled."""
        if before.stop is not None and before.stop.cause is StopCause.PREEMPTED:
            _require(
                after.state in {JobState.QUEUED, JobState.STOPPING},
                f"{after.id} made room for another and is {after.state}",
            )
        elif after.stop is not None and after.stop.cause is StopCause.PREEMPTED:
            _require(self.preempts, f"{after.id} makes room though nobody has to")
            since_s = _virtual_s() - SEEN_WITHIN_S
            just_left = {each for each, left_s in self._left_line_at_s.items() if left_s >= since_s}
            larger = [
                job_id
                for job_id in {*self._waits_since_s, *just_left}
                if self.scheduler.rows(JOBS)[job_id].job.spec.priority > after.spec.priority
            ]
            _require(bool(larger), f"{after.id} makes room for nobody of a larger priority")

    def _may_return(self, before: Job, after: Job) -> None:
        """A job is tried again for what is worth it, within its bound, and goes on from there."""
        assert after.attempt_id is not None, "who comes back was placed"
        attempt = self.scheduler.rows(ATTEMPTS)[after.attempt_id]
        is_of_tasks = after.spec.task_count > 1
        if before.stop is not None:
            _require(
                before.stop.cause is not StopCause.CANCELLED, f"{after.id}, cancelled, comes back"
            )
        if after.retry_count != before.retry_count:
            most = after.spec.retries.count_max
            _require(
                after.retry_count == before.retry_count + 1 <= most,
                f"{after.id} is tried again {after.retry_count} times, at most {most}",
            )
            _require(
                after.retry_at is not None and after.retry_at != before.retry_at,
                f"{after.id} is tried again without a pause",
            )
            if before.stop is None:
                self._is_asked_for(after, self._attempts_at(after))
            elif is_of_tasks:  # another one's end may be why: it is told with the stop
                failure = before.stop.failure
                is_fit = failure is None or after.spec.retries.allow(
                    failure.reason, failure.exit_code, retry_count=before.retry_count
                )
                _require(is_fit, f"{after.id} is tried again after {failure}, unasked")
        is_told = "was not kept" in after.reason or (
            # Of several tasks the first one may have ended before anybody knew that it comes back.
            is_of_tasks and attempt.ending is not None and "was not kept" in attempt.ending.message
        )
        is_success = attempt.ending is not None and attempt.ending.reason is EndReason.SUCCEEDED
        if attempt.state is AttemptState.EXITED and not is_told and not is_success:
            kept = after.checkpoint and after.checkpoint.attempt_number
            _require(kept == attempt.number, f"{after.id} forgets what {attempt.id} has kept")

    def _is_asked_for(self, job: Job, attempts: Iterable[Attempt]) -> None:
        """A job is tried again after exit codes that it names, whichever of its tasks failed so."""
        for attempt in attempts:
            is_success = attempt.ending is not None and attempt.ending.reason is EndReason.SUCCEEDED
            end = self.engines[attempt.node_id].truth(attempt.container_name).exit
            is_seen = attempt.state is AttemptState.EXITED and not is_success
            if is_seen and end is not None and end.cause is None and end.signal is None:
                _require(
                    end.code in job.spec.retries.exit_codes,
                    f"{job.id} is tried again after exit code {end.code}, unasked",
                )

    def _may_fail(self, job: Job, failure: JobFailure) -> None:
        """What is the platform's failure does not end a job that may be tried again."""
        _require(
            failure.reason not in PLATFORMS or job.retry_count >= job.spec.retries.count_max,
            f"{job.id} fails as {failure.reason} after {job.retry_count} retries",
        )

    def _nobody_is_passed(self, commit: Commit) -> None:
        """Who has waited for long enough to be seen is passed only where it has no room.

        Or by what ends sooner, where room is kept for one who waits before it.
        """
        admitted = [
            after
            for _, before, after in commit.of(JOBS)
            if after is not None
            and after.job.state is JobState.ADMITTED
            and (before is None or before.job.state is JobState.QUEUED)
        ]
        rows = self.scheduler.rows(JOBS).values() if admitted else ()
        queued = [row for row in rows if row.job.state is JobState.QUEUED]
        self._shares_decide(admitted, queued, commit)
        for each in admitted:
            paused_at_s = self._paused_at_s.get((each.job.tenant, each.job.spec.queue))
            is_seen = paused_at_s is not None and _virtual_s() - paused_at_s > SEEN_WITHIN_S
            _require(not is_seen, f"{each.job.id} of a paused queue is admitted")
        for row in queued:
            is_first = not any(_may_come_first(other, row) for other in queued if other != row)
            for other in admitted if self._is_eligible(row.job) else ():
                is_sooner = other.job.spec.timeouts.run < row.job.spec.timeouts.run
                if not _may_come_first(other, row) and (is_first or not is_sooner):
                    nodes = {each.node_id for each in self._attempts_at(other.job)}
                    count = sum(self._room_on(row, each, admitted, commit) for each in nodes)
                    had_room = count >= row.job.spec.task_count
                    _require(not had_room, f"{row.job.id} is passed by {other.job.id}")

    def _attempts_at(self, job: Job) -> list[Attempt]:
        """Return the attempts of a job's newest number."""
        return [
            each
            for each in self._attempts()
            if each.owner.id == job.id and each.number == job.attempt_number
        ]

    def _room_on(
        self, row: JobRow, node_id: NodeId, admitted: Sequence[JobRow], commit: Commit
    ) -> int:
        """Return for how many of a job's tasks a node had room at its turn, if it let them in.

        Of what it holds by then, and what has ended since the cycle began: who decided saw that.
        """
        first = {each.job.id for each in admitted if _may_come_first(each, row)}
        new = [attempt for each in admitted for attempt in self._attempts_at(each.job)]
        [free] = [node.free for key, node, _ in commit.of(NODES) if node and key == node_id]
        ended = self._ended_since(commit.began_s, node_id)
        taken = _sum(
            each.resources for each in new if each.node_id == node_id and each.owner.id in first
        ) + _sum(each.resources for each in ended)
        later = {each.id for each in new if each.owner.id not in first}
        tenants = {each.tenant for each in ended} | {
            attempt.tenant
            for attempt in self._attempts()
            if attempt.node_id == node_id and not attempt.is_terminal and attempt.id not in later
        }
        is_let_in = self.engines[node_id].allows_mixed_tenants or tenants <= {row.job.tenant}
        spec = row.job.spec
        return spec.resources.count_in(free.less(taken), most=spec.task_count) * is_let_in

    def _shares_decide(
        self, admitted: Sequence[JobRow], queued: Sequence[JobRow], commit: Commit
    ) -> None:
        """Of two tenants' jobs of one priority that one has its turn whose tenant has less."""
        new = {attempt_id for attempt_id, former, _ in commit.of(ATTEMPTS) if former is None}
        eligible = [row for row in queued if self._is_eligible(row.job)]
        for row in eligible:
            is_first = not any(_may_come_first(other, row) for other in queued if other != row)
            for other in admitted:
                is_rival = (
                    other.job.tenant != row.job.tenant
                    and other.job.priority == row.job.priority
                    and (is_first or row.job.spec.timeouts.run <= other.job.spec.timeouts.run)
                )
                if is_rival and self._could_stand_for(row, other, commit):
                    before = [each.job for each in admitted if _came_first(each, other)]
                    beside = [each.job for each in admitted if each.job.tenant == row.job.tenant]
                    theirs = self._share(other.job.tenant, before, lately=0, without=new)
                    own = self._share(row.job.tenant, beside, lately=SEEN_WITHIN_S, without=new)
                    _require(
                        theirs <= own + SHARES_EQUAL,
                        f"{other.job.tenant} has {theirs:.2f} and is given {other.job.id},"
                        f" {row.job.tenant} has {own:.2f} and {row.job.id} waits",
                    )

    def _ended_since(self, began_s: float, node_id: NodeId) -> list[Attempt]:
        """Return what was there yet for a cycle that began then."""
        return [
            each
            for each in self._attempts()
            if each.node_id == node_id and self._ended_at_s.get(each.id, -1.0) >= began_s
        ]

    def _could_stand_for(self, row: JobRow, other: JobRow, commit: Commit) -> bool:
        """Tell whether a job could have been admitted in another's stead, on its node.

        Beside what it holds, and what has ended since the cycle began: who decided saw that.
        """
        node_id = other.job.node_id
        assert node_id is not None, "who is admitted has a node"
        beside = [
            attempt
            for attempt in self._attempts()
            if attempt.node_id == node_id
            and not attempt.is_terminal
            and attempt.owner.id != other.job.id
        ]
        beside += self._ended_since(commit.began_s, node_id)
        tenants = {attempt.tenant for attempt in beside}
        is_let_in = self.engines[node_id].allows_mixed_tenants or tenants <= {row.job.tenant}
        taken = _sum(attempt.resources for attempt in beside)
        capacity = self.scheduler.rows(NODES)[node_id].capacity
        spec = row.job.spec
        count = spec.resources.count_in(capacity.less(taken), most=spec.task_count)
        return is_let_in and count == spec.task_count

    def _share(
        self,
        tenant: TenantId,
        jobs: Iterable[Job],
        *,
        lately: float,
        without: Collection[AttemptId],
    ) -> float:
        """Return a tenant's part of all nodes with these jobs, and what has ended `lately`."""
        held = self._held(tenant, lately=lately, without=without)
        held += _sum(job.spec.total_resources for job in jobs)
        there = _sum(node.capacity for node in self.scheduler.rows(NODES).values())
        return max(
            held.cpu_millicores / there.cpu_millicores, held.memory_bytes / there.memory_bytes
        )

    def _held(
        self, tenant: TenantId, *, lately: float, without: Collection[AttemptId] = ()
    ) -> Resources:
        """Return what a tenant's attempts hold, and those that have ended `lately`, in seconds."""
        now_s = _virtual_s()
        return _sum(
            attempt.resources
            for attempt in self._attempts()
            if attempt.tenant == tenant
            and attempt.id not in without
            and (not attempt.is_terminal or now_s - self._ended_at_s[attempt.id] < lately)
        )

    def _plan_lets(self, job: Job) -> bool:
        most = self.plans.get(job.tenant)
        held = self._held(job.tenant, lately=SEEN_WITHIN_S)
        return most is None or (held + job.spec.total_resources).fits_in(most)

    def _queues_changed(self, commit: Commit) -> None:
        for queue, _, pause in commit.of(PAUSES):
            if pause is None:
                self._paused_at_s.pop(queue, None)
                self._resumed_at_s[queue] = _virtual_s()
            else:
                self._paused_at_s.setdefault(queue, _virtual_s())

    def _is_eligible(self, job: Job) -> bool:
        """Tell whether whoever admits knows that a job's turn may come."""
        now_s = _virtual_s()
        queue = (job.tenant, job.spec.queue)
        changed_at_s = self.suspended_at_s.get(job.tenant, -PICTURE_S_MAX)
        return (
            job.state is JobState.QUEUED
            and job.retry_at is None
            and not job.needs
            and self._plan_lets(job)
            and queue not in self._paused_at_s
            and now_s - self._resumed_at_s.get(queue, -SEEN_WITHIN_S) > SEEN_WITHIN_S
            and not any(
                note.job_id == job.id for note in self.scheduler.rows(LINE_CHANGES).values()
            )
            and now_s - changed_at_s > PICTURE_S_MAX
        )

    def _is_open(self, node_id: NodeId) -> None:
        node = self.scheduler.rows(NODES)[node_id]
        _require(node.cordoned_at is None, f"{node_id} is cordoned and gets an attempt")
        _require(node.lost_at is None, f"{node_id} is lost and gets an attempt")

    def _is_tidy(self, node_id: NodeId) -> None:
        """Nothing of ended attempts runs on a node that takes work again."""
        attempts = self.scheduler.rows(ATTEMPTS)
        strays = [
            container.status.name
            for container in self.engines[node_id].running()
            if attempts[attempt_of_container(container.status.name)].is_terminal
        ]
        _require(not strays, f"{node_id} is back, and {strays} run on it for nobody")

    def _is_admitted_whole(self, job_id: JobId, number: int) -> None:
        """All tasks of a job begin in one commit."""
        tasks = sorted(
            each.task
            for each in self._attempts()
            if each.owner.id == job_id and each.number == number
        )
        count = self.scheduler.rows(JOBS)[job_id].job.spec.task_count
        _require(
            tasks == list(range(count)), f"{job_id} has {count} tasks, and attempts at {tasks}"
        )

    def _has_one_open_attempt_a_task(self, job_id: JobId) -> None:
        attempts = [each for each in self._attempts() if each.owner.id == job_id]
        row = self.scheduler.rows(JOBS)[job_id]
        for task in range(row.job.spec.task_count):
            numbers = sorted(attempt.number for attempt in attempts if attempt.task == task)
            _require(
                numbers == list(range(1, len(numbers) + 1)), f"{job_id} has attempts {numbers}"
            )
        still_open = [attempt for attempt in attempts if not attempt.is_terminal]
        names = [attempt.id for attempt in still_open]
        _require(
            len({attempt.task for attempt in still_open}) == len(names)
            and {attempt.number for attempt in still_open} <= {row.job.attempt_number},
            f"{job_id} has open attempts {names}",
        )
        _require(
            not (names and row.job.is_terminal)
            and not (names and row.job.state is JobState.QUEUED),
            f"{job_id} is {row.job.state}, and has open attempts {names}",
        )
        tenants = {attempt.tenant for attempt in attempts}
        _require(
            tenants == {row.job.tenant}, f"{row.job.tenant}'s {job_id} has {tenants}' attempts"
        )

    def _ended_at_its_runtime(self, attempt: Attempt) -> None:
        if attempt.is_terminal:
            engine = self.engines[attempt.node_id]
            phase = engine.truth(attempt.container_name).phase
            if self.scheduler.rows(NODES)[attempt.node_id].lost_at is not None:
                if phase is ContainerPhase.CREATED:
                    return  # nobody starts it any more
                could_act_s = min(self.awake_for_s(attempt.node_id), engine.up_for_s)
                if phase is ContainerPhase.RUNNING and could_act_s < self.has_stopped_s:
                    self._left_alone.add(attempt.container_name)
                    return
            _require(
                phase not in {ContainerPhase.RUNNING, ContainerPhase.CREATED},
                f"{attempt.id} is {attempt.state} though its container is {phase}",
            )

    def _says_why_it_ended(self, attempt: Attempt) -> None:
        """An end comes with its reason, and its job has moved by that one."""
        ending = attempt.ending
        _require(
            attempt.is_terminal == (ending is not None),
            f"{attempt.id} is {attempt.state}, and why is {ending}",
        )
        job = self.scheduler.rows(JOBS)[JobId(attempt.owner.id)].job
        if ending is None or job.attempt_number != attempt.number:
            return
        if job.spec.task_count > 1:
            self._says_why_its_tasks_ended(job)
            return
        fitting: Mapping[JobState, Callable[[EndReason], bool]] = {
            JobState.SUCCEEDED: lambda reason: reason is EndReason.SUCCEEDED,
            JobState.CANCELLED: lambda reason: reason is EndReason.CANCELLED,
            JobState.FAILED: lambda reason: (
                job.failure is not None and reason.value == job.failure.reason.value
            ),
            JobState.QUEUED: lambda reason: (
                reason not in {EndReason.SUCCEEDED, EndReason.CANCELLED}
            ),
        }
        _require(
            job.state in fitting and fitting[job.state](ending.reason),
            f"{job.id} is {job.state} though {attempt.id} has ended as {ending.reason}",
        )

    def _says_why_its_tasks_ended(self, job: Job) -> None:
        """A job succeeds with all of its tasks, and one that failed is its job's failure."""
        attempts = self._attempts_at(job)
        if any(not each.is_terminal for each in attempts):
            _require(not job.is_terminal, f"{job.id} is {job.state} while tasks of it go on")
            return
        reasons = {each.ending.reason for each in attempts if each.ending is not None}
        is_success = reasons == {EndReason.SUCCEEDED}
        _require(
            (job.state is JobState.SUCCEEDED) == is_success,
            f"{job.id} is {job.state} though its tasks have ended as {sorted(reasons)}",
        )
        if job.failure is not None:
            reason = job.failure.reason.value
            _require(reason in reasons, f"{job.id} fails as {reason}, its tasks as {reasons}")

    def _capacity_is_booked_once(self, node_id: NodeId) -> None:
        node: Node = self.scheduler.rows(NODES)[node_id]
        booked = _sum(
            attempt.resources
            for attempt in self._attempts()
            if attempt.node_id == node_id and not attempt.is_terminal
        )
        _require(node.used == booked, f"{node_id} has {node.used} booked, its attempts {booked}")
        _require(node.used.fits_in(node.capacity), f"{node_id} is overbooked: {node.used}")

    def _keeps_tenants_apart(self, node_id: NodeId) -> None:
        tenants = {
            attempt.tenant
            for attempt in self._attempts()
            if attempt.node_id == node_id and not attempt.is_terminal
        }
        is_right = self.engines[node_id].allows_mixed_tenants or len(tenants) <= 1
        _require(is_right, f"{node_id} mixes no tenants and has open attempts of {sorted(tenants)}")

    def _is_within_plan(self, tenant: TenantId) -> None:
        if (most := self.plans.get(tenant)) is not None:
            booked = _sum(
                attempt.resources
                for attempt in self._attempts()
                if attempt.tenant == tenant and not attempt.is_terminal
            )
            _require(booked.fits_in(most), f"{tenant} has {booked}, its plan lets it take {most}")

    def _runs_once(self, job_id: JobId) -> None:
        attempts = self.scheduler.rows(ATTEMPTS)
        living = [
            container.status.name
            for engine in self.engines.values()
            for container in engine.running()
            if container.status.name not in self._left_alone
            and (attempt := attempts.get(attempt_of_container(container.status.name)))
            and attempt.owner.id == job_id
        ]
        tasks = {
            (attempts[attempt_of_container(name)].task, attempts[attempt_of_container(name)].number)
            for name in living
        }
        is_once = len(tasks) == len(living) and len({number for _, number in tasks}) <= 1
        _require(is_once, f"{job_id} runs as {living}")

    def _goes_on_from_what_was_kept(self, container: Container, job_id: JobId) -> None:
        assert container.spec is not None, "what runs has a description"
        job = self.scheduler.rows(JOBS)[job_id].job
        kept = job.checkpoint
        if job.spec.task_count > 1 and not job.is_placed:
            return  # it is stopping: the first task has left what the next attempts are to find
        due = sorted(file.digest for file in kept.files) if kept is not None else []
        given = sorted(placed.file.name for placed in container.spec.checkpoint)
        _require(given == due, f"{job_id} is given {given}, and kept {due}")

    def _fits(self, node_id: NodeId) -> None:
        attempts = self.scheduler.rows(ATTEMPTS)
        running = _sum(
            attempts[AttemptId(attempt_of_container(container.status.name))].resources
            for container in self.engines[node_id].running()
        )
        capacity = self.scheduler.rows(NODES)[node_id].capacity
        _require(running.fits_in(capacity), f"{running} run on {node_id}, which has {capacity}")

    def _runs_one_tenants(self, node_id: NodeId) -> None:
        """By what runs, whatever is recorded: what a lost node left behind counts, too."""
        engine = self.engines[node_id]
        tenants = {container.status.labels["modelyard.tenant"] for container in engine.running()}
        is_right = engine.allows_mixed_tenants or len(tenants) <= 1
        _require(is_right, f"{node_id} mixes no tenants and runs those of {sorted(tenants)}")

    def _is_registered_once(self, job_id: str, *, is_due: bool = False) -> None:
        row = self.scheduler.rows(JOBS).get(JobId(job_id))
        _require(row is not None, f"{job_id}'s outputs are registered, and nobody knows it")
        assert row is not None
        effects = self._effects(job_id)
        outputs = sorted(output for _, output in effects)
        due = _registered(row.job)
        is_right = outputs == due if is_due else len(set(outputs)) == len(outputs) <= len(due)
        _require(is_right, f"{job_id}'s outputs {due} are registered as {outputs}")
        tenants = {tenant for tenant, _ in effects}
        _require(tenants <= {row.job.tenant}, f"{job_id} is registered in {tenants}")

    def _effects(self, job_id: str) -> list[tuple[TenantId, str]]:
        return [
            (tenant, version.content.lineage.output_name)
            for (tenant, _, _), version in self.registry.rows(VERSIONS).items()
            if version.content.lineage is not None and version.content.lineage.job_id == job_id
        ]

    def _attempts(self) -> Iterable[Attempt]:
        return self.scheduler.rows(ATTEMPTS).values()

    def _succeeded(self, jobs: Mapping[JobId, Job]) -> list[Job]:
        return [
            job for job in jobs.values() if job.state is JobState.SUCCEEDED and _registered(job)
        ]


def _may_come_first(row: JobRow, other: JobRow) -> bool:
    """Tell whether a job's turn may come before another's: of two tenants' shares decide."""
    if row.job.priority != other.job.priority:
        return row.job.priority > other.job.priority
    return row.job.tenant != other.job.tenant or row.turn < other.turn


def _came_first(row: JobRow, other: JobRow) -> bool:
    """Tell whether a job's turn certainly came before another's of its tenant."""
    key, others = ((-each.job.priority, each.turn) for each in (row, other))
    return row.job.tenant == other.job.tenant and key < others


def _virtual_s() -> float:
    return asyncio.get_running_loop().time()


def _registered(job: Job) -> list[str]:
    outputs = () if job.is_array else job.spec.outputs
    return sorted(output.name for output in outputs if output.register_as)


def _sum(amounts: Iterable[Resources]) -> Resources:
    return sum(amounts, Resources())


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Violation(otherwise)


SETTLES_WITHIN = timedelta(minutes=30)
"""Longest that all which is under way needs once the faults have stopped: longer than a start, then
an upload, are tried again."""

LEFT_WITHIN = timedelta(minutes=1)
"""Longest that a suspension or a drain needs once the faults have stopped: until runners are back,
and the longest grace is over. Shorter than the longest program."""
