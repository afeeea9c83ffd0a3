"""A job: what was asked for, where it is, and the one door through which it moves.

Owns: the job's state table and what each move records. Running it is the runner's; its capacity
belongs to its attempt. Always holds: `version` grows by one with each fact, and a terminal job
never moves again.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from services.chassis.amounts import duration_in_words
from services.chassis.errors import FailedPrecondition
from services.chassis.tenancy import TenantId
from services.scheduler.domain.files import FileEntry
from services.scheduler.domain.identities import AttemptId, JobId, NodeId
from services.scheduler.domain.jobs.failure import (
    MESSAGE_CHARACTERS_MAX,
    FailureReason,
    JobFailure,
    storable,
)
from services.scheduler.domain.jobs.retries import JobRetries, backoff
from services.scheduler.domain.jobs.spec import JobDependency, JobSpec
from services.scheduler.domain.transitions import IllegalTransition

PROGRESS_METRICS_MAX: Final = 64


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "QUEUED"
    ADMITTED = "ADMITTED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


S = JobState

TRANSITIONS: Final[Mapping[JobState, frozenset[JobState]]] = {
    S.QUEUED: frozenset({S.ADMITTED, S.CANCELLED, S.FAILED}),  # FAILED: it waited too long
    # From ADMITTED on an attempt exists, so only its runtime can say that nothing runs: cancelling
    # goes through STOPPING even before the start.
    # To QUEUED: its attempt has ended in a way that is worth another.
    S.ADMITTED: frozenset({S.STARTING, S.FAILED, S.STOPPING, S.QUEUED}),
    S.STARTING: frozenset({S.RUNNING, S.FAILED, S.STOPPING, S.QUEUED}),
    S.RUNNING: frozenset({S.SUCCEEDED, S.FAILED, S.STOPPING, S.QUEUED}),
    # To QUEUED: its tenant was suspended, its node is drained, it was preempted, or it ran too long
    # or one of its tasks failed, and is tried again. To STOPPING: it was cancelled while it would
    # come back.
    S.STOPPING: frozenset({S.CANCELLED, S.FAILED, S.QUEUED, S.STOPPING}),
    S.SUCCEEDED: frozenset(),
    S.FAILED: frozenset(),
    S.CANCELLED: frozenset(),
}


ARRAY_TRANSITIONS: Final[Mapping[JobState, frozenset[JobState]]] = {
    # It has no attempt: RUNNING, once none of its elements is in line with it any more.
    S.QUEUED: frozenset({S.RUNNING, S.STOPPING, S.CANCELLED, S.FAILED}),
    S.ADMITTED: frozenset(),
    S.STARTING: frozenset(),
    S.RUNNING: frozenset({S.SUCCEEDED, S.FAILED, S.STOPPING}),
    S.STOPPING: frozenset({S.CANCELLED}),
    S.SUCCEEDED: frozenset(),
    S.FAILED: frozenset(),
    S.CANCELLED: frozenset(),
}
ENDED: Final = frozenset(state for state, ways in TRANSITIONS.items() if not ways)
PLACED: Final = frozenset({S.ADMITTED, S.STARTING, S.RUNNING})
"""With capacity, and not asked to stop."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """The last thing that the job said about itself; `fraction` is 0..1."""

    fraction: float
    message: str
    metrics: Mapping[str, float]
    reported_at: datetime

    def bounded(self) -> "JobProgress":
        """Return it within bounds, without metrics that are no finite number."""
        finite = [
            (storable(name)[:MESSAGE_CHARACTERS_MAX], value)
            for name, value in self.metrics.items()
            if math.isfinite(value)
        ]
        return replace(
            self,
            fraction=min(1.0, max(0.0, self.fraction)) if math.isfinite(self.fraction) else 0.0,
            message=storable(self.message)[:MESSAGE_CHARACTERS_MAX],
            metrics=dict(finite[:PROGRESS_METRICS_MAX]),
        )


@dataclass(frozen=True, slots=True)
class OutputManifest:
    """The files of one output, all of them in the registry's artifact store."""

    name: str
    register_as: str
    files: tuple[FileEntry, ...]


@dataclass(frozen=True, slots=True)
class ArrayElement:
    """Which element of which array a job is."""

    array_id: JobId
    index: int
    """From 0 on."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The files that an attempt left for the next one, all of them in the artifact store."""

    attempt_number: int
    files: tuple[FileEntry, ...]


class StopCause(StrEnum):
    """What decides whether a stopped job ends CANCELLED or FAILED, or goes back in line."""

    CANCELLED = "cancelled"
    RUN_TIMEOUT = "run_timeout"
    SUSPENDED = "suspended"
    DRAINED = "drained"
    PREEMPTED = "preempted"
    TASK_FAILED = "task_failed"
    """One of several tasks has ended otherwise than in success: the others stop, too."""


FOR_NOW: Final = frozenset({StopCause.SUSPENDED, StopCause.DRAINED, StopCause.PREEMPTED})


@dataclass(frozen=True, slots=True)
class StopRequest:
    """That a running thing should end, since when, and why."""

    cause: StopCause
    reason: str
    requested_at: datetime
    failure: JobFailure | None = None
    """With TASK_FAILED: what the job fails for, or is tried again for, once all tasks ended."""

    @property
    def is_for_now(self) -> bool:
        """Tell whether what stops goes back in line, however it ends."""
        return self.cause in FOR_NOW

    def allows_return(self, retries: JobRetries, *, retry_count: int) -> bool:
        """Tell whether a job that stops so, after so many retries, goes back in line."""
        if self.failure is not None:
            reason, exit_code = self.failure.reason, self.failure.exit_code
            return retries.allow(reason, exit_code, retry_count=retry_count)
        is_timeout = self.cause is StopCause.RUN_TIMEOUT
        return self.is_for_now or (
            is_timeout and retries.allow(FailureReason.RUN_TIMEOUT, retry_count=retry_count)
        )


class Phase(StrEnum):
    """The stretches of a job's life that its trace shows as spans."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class EndedPhase:
    """A phase that a move has ended."""

    phase: Phase
    started_at: datetime
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class JobTransitioned:
    """The fact that a job moved; published as `modelyard.job.<state>.v1`."""

    job_id: JobId
    tenant: TenantId
    name: str
    state: JobState
    reason: str
    version: int
    attempt_number: int
    attempt_id: AttemptId | None
    at: datetime
    source_digest: str
    traceparent: str | None
    outputs: tuple[OutputManifest, ...] = ()
    failure: JobFailure | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    ended_phase: EndedPhase | None = None
    element: ArrayElement | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its owner sees it; each move returns the new value and the fact to publish."""

    id: JobId
    tenant: TenantId
    spec: JobSpec
    state: JobState
    reason: str
    version: int
    created_at: datetime
    traceparent: str | None = None
    """The submission's; parent of all that happens to the job."""
    attempt_number: int = 0
    """Its tasks' attempts have it in common: they begin together, and all end before others do."""
    attempt_id: AttemptId | None = None
    """Task 0's."""
    node_id: NodeId | None = None
    """Task 0's."""
    progress: JobProgress | None = None
    failure: JobFailure | None = None
    stop: StopRequest | None = None
    admitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    retry_count: int = 0
    retry_at: datetime | None = None
    """When its last retry could begin; before that it stands in line and is passed over."""
    queue_expires_at: datetime | None = None
    """Until when it may, or might, stand in line; None: however long."""
    checkpoint: Checkpoint | None = None
    """What its next attempt finds in its checkpoint folder."""
    needs: tuple[JobDependency, ...] = ()
    """What of `spec.after` it waits for still; until that has ended it is passed over in line."""
    kept_outputs: tuple[OutputManifest, ...] = ()
    """What task 0 has left, while other tasks go on."""
    element: ArrayElement | None = None
    """Which one of an array's it is; None: it is none."""
    rest_count: int = 1
    """How many stand in line as this one: of an array the elements that are no jobs yet."""
    aged_by: int = 0
    """What waiting has added to its priority (ADR-0041)."""
    ages_from: datetime | None = None
    """Since when it stands in line with that."""
    element_counts: Mapping[JobState, int] = field(default_factory=dict, compare=False)
    """Of an array that is shown: how many of its elements are jobs in each state."""

    @classmethod
    def queued(
        cls,
        job_id: JobId,
        tenant: TenantId,
        spec: JobSpec,
        *,
        at: datetime,
        traceparent: str | None,
        needs: tuple[JobDependency, ...] = (),
        element: ArrayElement | None = None,
    ) -> "tuple[Job, JobTransitioned]":
        """Return a new job, last in its line; with `needs` it waits for those first."""
        job = cls(
            id=job_id,
            tenant=tenant,
            spec=spec,
            state=S.QUEUED,
            reason=_waits_for(needs) if needs else "submitted",
            version=1,
            created_at=at,
            traceparent=traceparent,
            queue_expires_at=None if needs else _expiry(spec, at),
            needs=needs,
            element=element,
            ages_from=None if needs else at,
        )
        if job.is_array:
            job = replace(job, rest_count=spec.array_size)
        return job, _fact_of(job, at)

    @property
    def is_terminal(self) -> bool:
        """Tell whether the job has ended."""
        return self.state in ENDED

    @property
    def priority(self) -> int:
        """Return with what it stands in line."""
        return self.spec.priority + self.aged_by

    @property
    def is_array(self) -> bool:
        """Tell whether it never runs itself, but its elements do."""
        return self.spec.array_size > 0 and self.element is None

    @property
    def has_elements(self) -> bool:
        """Tell whether some of an array's elements are jobs by now."""
        return self.is_array and self.rest_count < self.spec.array_size

    @property
    def array_index(self) -> int:
        """Return its index in its array, of an array that of its next element; else 0."""
        if self.element is not None:
            return self.element.index
        return self.spec.array_size - self.rest_count if self.is_array else 0

    @property
    def is_placed(self) -> bool:
        """Tell whether it holds capacity and nobody has asked it to stop."""
        return self.state in PLACED and not self.is_array

    def pauses(self, *, at: datetime) -> bool:
        """Tell whether its retry may not begin yet."""
        return self.retry_at is not None and at < self.retry_at

    @property
    def phase(self) -> Phase | None:
        """Return the phase that the job is in; stopping belongs to the phase that it interrupts."""
        if self.is_terminal:
            return None
        if self.state is S.QUEUED or (self.is_array and self.started_at is None):
            return Phase.QUEUED
        return Phase.STARTING if self.started_at is None else Phase.RUNNING

    def admitted(
        self, attempt_id: AttemptId, node_id: NodeId, *others: NodeId, at: datetime
    ) -> "tuple[Job, JobTransitioned]":
        """Capacity is taken for new attempts: task 0's, and on `others` those of all others."""
        assert not self.needs, "who waits for other jobs is passed over in line"
        assert len(others) == self.spec.task_count - 1, "all tasks are placed together"
        return self.move(
            S.ADMITTED,
            reason=_placed_on(node_id, *others),
            at=at,
            attempt_number=self.attempt_number + 1,
            attempt_id=attempt_id,
            node_id=node_id,
            admitted_at=at,
        )

    def released(self, needs: tuple[JobDependency, ...], *, by: str, at: datetime) -> "Job":
        """What it waits for has ended `by` this, but for `needs`: no fact, so no new version.

        Its time in line begins with the last one: before that it could not have had its turn.
        """
        assert self.state is S.QUEUED, "only in line is waited"
        if needs:
            return replace(self, reason=_waits_for(needs), needs=needs)
        expires_at = _expiry(self.spec, at)
        return replace(self, reason=by, needs=(), queue_expires_at=expires_at, ages_from=at)

    def split(
        self, element_id: JobId, *, at: datetime
    ) -> "tuple[Job, JobTransitioned | None, Job, JobTransitioned]":
        """Return an array without its next element, with its fact if it moved; and that, queued.

        Only the last one moves it. An element has waited since its array came in line.
        """
        assert self.is_array, "only an array is split"
        element, queued = Job.queued(
            element_id,
            self.tenant,
            self.spec,
            at=self.created_at,
            traceparent=self.traceparent,
            element=ArrayElement(self.id, self.array_index),
        )
        element = replace(element, aged_by=self.aged_by)
        rest_count = self.rest_count - 1
        size = self.spec.array_size
        told = f"{size - rest_count} of {size} elements admitted"
        rest = replace(self, rest_count=rest_count, reason=told)
        if rest_count:
            return rest, None, element, queued
        array, running = rest.move(S.RUNNING, reason=told, at=at, started_at=at)
        return array, running, element, queued

    def starting(self, *, at: datetime) -> "tuple[Job, JobTransitioned]":
        """Its files are being fetched and its container created."""
        return self.move(S.STARTING, reason="preparing its container", at=at)

    def hindered(self, *, by: str) -> "Job":
        """Say what its start waits for: shown, but no fact, so no new version."""
        reason = f"preparing its container; tried again: {by}"
        return replace(self, reason=storable(reason)[:MESSAGE_CHARACTERS_MAX])

    def running(
        self, *, at: datetime, has_lost_checkpoint: bool = False
    ) -> "tuple[Job, JobTransitioned]":
        """Its first instruction has run."""
        anew = "; its checkpoint is lost, so it began anew" if has_lost_checkpoint else ""
        return self.move(S.RUNNING, reason=f"started{anew}", at=at, started_at=at)

    def progressed(self, progress: JobProgress) -> "Job":
        """Return the job with its newest progress: shown, but no fact, so no new version."""
        return replace(self, progress=progress.bounded())

    def kept(self, checkpoint: Checkpoint | None) -> "Job":
        """Return the job with its newest checkpoint, if there is one: no fact, no new version."""
        return self if checkpoint is None else replace(self, checkpoint=checkpoint)

    def kept_output(self, outputs: tuple[OutputManifest, ...]) -> "Job":
        """Task 0 has left this, and others go on: no fact, no new version."""
        return replace(self, kept_outputs=outputs)

    def task_failed(
        self, failure: JobFailure, *, at: datetime
    ) -> "tuple[Job, JobTransitioned] | None":
        """One of its tasks has failed, and others are to stop; None if they were asked before.

        Only the first failure counts: what follows it may be its doing.
        """
        if self.state is S.STOPPING:
            return None
        failure = failure.bounded()
        stop = StopRequest(StopCause.TASK_FAILED, failure.message, at, failure)
        return self.move(S.STOPPING, reason=failure.message, at=at, stop=stop)

    def asked_to_stop(
        self, *, reason: str, at: datetime, cause: StopCause = StopCause.CANCELLED
    ) -> "tuple[Job, JobTransitioned] | None":
        """Ask for the job's end: at once when nothing runs, else STOPPING until confirmed.

        Returns None when that was asked before: the first request stands, but that a job which
        would come back can be cancelled for good. Raises FailedPrecondition when the job ended by
        itself.
        """
        if self.state is S.CANCELLED:
            return None
        if self.state is S.STOPPING and not (self._comes_back and cause is StopCause.CANCELLED):
            return None
        if self.is_terminal:
            raise FailedPrecondition(
                f"job {self.id} has already ended as {self.state}",
                detail={"kind": "job", "id": self.id, "state": self.state},
            )
        if self.state is S.QUEUED and not self.has_elements:
            return self.cancelled(reason=reason, at=at)
        stop = StopRequest(cause, reason, at)
        return self.move(S.STOPPING, reason=reason, at=at, stop=stop)

    def requeued(self, *, reason: str, at: datetime) -> "tuple[Job, JobTransitioned]":
        """It stopped only for now, confirmed by its runtime: back at its place in line."""
        told = storable(reason)[:MESSAGE_CHARACTERS_MAX]
        return self._back_in_line(told, at=at, waits_from=at)

    def retries(self, failure: JobFailure) -> bool:
        """Tell whether what failed so is to be tried again."""
        return self.spec.retries.allow(
            failure.reason, failure.exit_code, retry_count=self.retry_count
        )

    def retried(
        self, failure: JobFailure, *, at: datetime, chance: float
    ) -> "tuple[Job, JobTransitioned]":
        """Its attempt failed, confirmed by its runtime: back at its place in line, after a pause.

        `chance` is 0..1 and makes the pause longer.
        """
        count = self.retry_count + 1
        pause = backoff(count, chance=chance)
        soon = duration_in_words(timedelta(seconds=round(pause.total_seconds())))
        told = f"retry {count} of {self.spec.retries.count_max} in {soon}"
        why = storable(failure.message)[: MESSAGE_CHARACTERS_MAX - len(told) - 2]
        return self._back_in_line(
            f"{told}: {why}",
            at=at,
            waits_from=at + pause,
            retry_count=count,
            retry_at=at + pause,
        )

    def expired(self, *, at: datetime) -> "tuple[Job, JobTransitioned]":
        """It stood in line for as long as it may; an array's elements that are jobs go on."""
        assert self.spec.timeouts.queue is not None, "only who bounds it runs out of it"
        waited = f"stood in line for longer than {duration_in_words(self.spec.timeouts.queue)}"
        failure = JobFailure(FailureReason.QUEUE_TIMEOUT, waited)
        if self.has_elements:
            rest = replace(failure, message=f"{self.rest_count} elements {waited}")
            return self.rest_failed(rest, at=at)
        return self.failed(failure, at=at)

    def rest_failed(self, failure: JobFailure, *, at: datetime) -> "tuple[Job, JobTransitioned]":
        """An array's elements that are in line with it never run; it fails once the others end."""
        return self.move(S.RUNNING, reason=failure.message, at=at, failure=failure, started_at=at)

    def succeeded(
        self, outputs: tuple[OutputManifest, ...], *, at: datetime
    ) -> "tuple[Job, JobTransitioned]":
        """It ended with exit code 0 and its outputs are stored."""
        moved, fact = self.move(S.SUCCEEDED, reason="exit code 0", at=at, ended_at=at)
        metrics = self.progress.metrics if self.progress else {}
        return moved, replace(fact, outputs=outputs, metrics=metrics)

    def failed(self, failure: JobFailure, *, at: datetime) -> "tuple[Job, JobTransitioned]":
        """It ended in another way, confirmed by its runtime."""
        failure = failure.bounded()
        return self.move(S.FAILED, reason=failure.message, at=at, failure=failure, ended_at=at)

    def cancelled(self, *, reason: str, at: datetime) -> "tuple[Job, JobTransitioned]":
        """It ended as asked; from STOPPING, its runtime has confirmed."""
        # An array may have been to fail once its elements would have ended by themselves.
        return self.move(S.CANCELLED, reason=reason, at=at, failure=None, ended_at=at)

    def move(
        self, to: JobState, *, reason: str, at: datetime, **changes: Any
    ) -> "tuple[Job, JobTransitioned]":
        """Move by the table, and by nothing else; raises IllegalTransition."""
        if to not in (ARRAY_TRANSITIONS if self.is_array else TRANSITIONS)[self.state]:
            raise IllegalTransition("job", self.id, state=self.state, to=to)
        # Whoever moves waits for no other job any more.
        moved = replace(
            self, state=to, reason=reason, version=self.version + 1, needs=(), **changes
        )
        if moved.is_terminal or to is S.QUEUED:
            moved = replace(moved, kept_outputs=())
        return moved, replace(_fact_of(moved, at), ended_phase=self._phase_ended_by(moved, at))

    def _back_in_line(
        self, reason: str, *, at: datetime, waits_from: datetime, **changes: Any
    ) -> "tuple[Job, JobTransitioned]":
        return self.move(
            S.QUEUED,
            reason=reason,
            at=at,
            node_id=None,
            progress=None,
            stop=None,
            admitted_at=None,
            started_at=None,
            queue_expires_at=_expiry(self.spec, waits_from),
            ages_from=waits_from,
            **changes,
        )

    @property
    def _comes_back(self) -> bool:
        return self.stop is not None and self.stop.allows_return(
            self.spec.retries, retry_count=self.retry_count
        )

    def _phase_ended_by(self, moved: "Job", at: datetime) -> EndedPhase | None:
        began = {
            Phase.QUEUED: self.created_at,
            Phase.STARTING: self.admitted_at,
            Phase.RUNNING: self.started_at,
        }
        phase = self.phase
        if phase is None or phase is moved.phase:
            return None
        if phase is Phase.QUEUED and self.attempt_number > 0:
            return (
                None  # since when it is back in line is not kept: no span rather than a wrong one
            )
        return EndedPhase(phase, started_at=began[phase] or self.created_at, ended_at=at)


def _placed_on(*node_ids: NodeId) -> str:
    if len(node_ids) == 1:
        return f"placed on {node_ids[0]}"
    nodes = sorted(set(node_ids))
    where = nodes[0] if len(nodes) == 1 else f"{len(nodes)} nodes"
    return f"{len(node_ids)} tasks placed on {where}"


def _waits_for(needs: tuple[JobDependency, ...]) -> str:
    others = f", and {len(needs) - 1} more" if len(needs) > 1 else ""
    return f"waits for {needs[0].in_words}{others}"


def _expiry(spec: JobSpec, waits_from: datetime) -> datetime | None:
    return None if spec.timeouts.queue is None else waits_from + spec.timeouts.queue


def _fact_of(job: Job, at: datetime) -> JobTransitioned:
    return JobTransitioned(
        job_id=job.id,
        tenant=job.tenant,
        name=job.spec.name,
        state=job.state,
        reason=job.reason,
        version=job.version,
        attempt_number=job.attempt_number,
        attempt_id=job.attempt_id,
        at=at,
        source_digest=job.spec.source_digest,
        traceparent=job.traceparent,
        failure=job.failure,
        element=job.element,
    )
