"""What happened to an attempt, recorded with what it means for its owner."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from services.chassis.amounts import duration_in_words
from services.chassis.errors import Conflict
from services.scheduler.domain.attempts.attempt import (
    Attempt,
    AttemptState,
    AttemptTransitioned,
    LogLocation,
)
from services.scheduler.domain.attempts.ending import AttemptEnding
from services.scheduler.domain.attempts.runtime import ContainerExit
from services.scheduler.domain.attempts.work import AttemptWork, JobWork, ReplicaWork
from services.scheduler.domain.deployments.replica import Replica, ReplicaState
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import (
    Checkpoint,
    Job,
    JobProgress,
    JobState,
    JobTransitioned,
    OutputManifest,
    StopCause,
    StopRequest,
)
from services.scheduler.use_cases.deployments.change_replica import change_replica
from services.scheduler.use_cases.jobs.ask_to_stop import ask_to_stop
from services.scheduler.use_cases.ports import Lease, SystemTransaction, UnitOfWork

_TIMEOUT: Final = FailureReason.RUN_TIMEOUT
_RETRIES_COUNTED: Final = timedelta(hours=1)
TOGETHER_MAX: Final = 8
"""Records under way at once; the others stand in line.

A runner that takes a node over has one for each attempt: all at once they would wait for the
database's connections until that is an error, and keep them from callers meanwhile.
"""


def _turns() -> asyncio.Semaphore:
    return asyncio.Semaphore(TOGETHER_MAX)


@dataclass(frozen=True, slots=True)
class Succeeded:
    """A job left what it should."""

    outputs: tuple[OutputManifest, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """What an attempt leaves for the next one, if there is one."""

    checkpoint: Checkpoint | None = None
    """None: what is there from before stays."""
    problem: str = ""
    """Why what it left could not be kept."""

    @property
    def told(self) -> str:
        """Return what the job's reason says of it besides."""
        return f"; its checkpoint was not kept: {self.problem}" if self.problem else ""


Outcome = Succeeded | JobFailure
"""What an end means for its owner, unless that was asked to stop."""


NOTHING_KEPT: Final = Kept()


@dataclass(frozen=True, slots=True)
class RecordAttempt:
    """Write down, each in one transaction, what the runtime has confirmed.

    Who could act late: a runner whose node was given to another one, or given up. `hold` refuses
    it, and the state tables refuse what was recorded before, so each act may be repeated. An owner
    that has moved on to another attempt is left alone; the attempt still ends and frees its
    capacity. Tasks of one job that end at once do so one after another, by the job's lock: the
    last one decides on the job (ADR-0037).
    """

    unit_of_work: UnitOfWork
    retried_jobs_max: int
    """Jobs of one tenant that are tried again within an hour; what fails beyond that has failed.

    A brake: ends that are recorded at the same time may pass it together.
    """
    chance: Callable[[], float]
    """Returns 0..1; a retry's pause is longer by it."""
    turns: asyncio.Semaphore = field(default_factory=_turns)

    async def starting(self, lease: Lease, work: AttemptWork, *, hindered_by: str | None) -> None:
        """Its files are being fetched; if that failed before, its owner is told why."""
        async with self._transaction(lease) as tx:
            job = await _current_job(tx, work)
            if job is not None and job.state is JobState.ADMITTED:
                job = await _save_job(tx, job.starting(at=tx.now))
            if job is None or job.state is not JobState.STARTING or hindered_by is None:
                return
            hindered = job.hindered(by=hindered_by)
            if hindered != job:
                await tx.jobs.save(hindered)

    async def started(
        self,
        lease: Lease,
        work: AttemptWork,
        *,
        log_location: LogLocation,
        at: datetime,
        has_lost_checkpoint: bool = False,
    ) -> None:
        """Its first instruction ran."""
        async with self._transaction(lease) as tx:
            attempt = await tx.attempts.get(work.attempt.id)
            if attempt.state is not AttemptState.CREATED:
                return
            await _save_attempt(tx, attempt.started(log_location, at=at))
            job = await _current_job(tx, work)
            if job is None:
                return
            if job.state is JobState.ADMITTED:  # there was nothing to fetch, or its runner died
                job, fact = job.starting(at=at)
                tx.emit(fact)
            if job.state is JobState.STARTING:
                await _save_job(tx, job.running(at=at, has_lost_checkpoint=has_lost_checkpoint))

    async def progressed(self, lease: Lease, work: AttemptWork, progress: JobProgress) -> None:
        """Its program said how far it is."""
        async with self._transaction(lease) as tx:
            job = await _current_job(tx, work)
            if job is not None and job.state is JobState.RUNNING:
                await tx.jobs.save(job.progressed(progress))

    async def out_of_time(self, lease: Lease, work: AttemptWork) -> None:
        """Its run time is over: from now on it is stopping."""
        async with self._transaction(lease) as tx:
            job = await _current_job(tx, work)
            if job is None or job.state is not JobState.RUNNING:
                return
            reason = f"ran longer than {duration_in_words(job.spec.timeouts.run)}"
            await ask_to_stop(tx, job, reason=reason, cause=StopCause.RUN_TIMEOUT)

    async def answers(self, lease: Lease, work: AttemptWork, *, address: str) -> None:
        """Its server can be asked."""
        async with self._transaction(lease) as tx:
            assert isinstance(work.owner, ReplicaWork), "only replicas are asked"
            replica = await tx.replicas.get(work.owner.replica_id)
            if replica.attempt_id == work.attempt.id and replica.is_warming:
                await change_replica(tx, replica.ready(address, at=tx.now))

    async def answers_no_more(self, lease: Lease, work: AttemptWork) -> None:
        """Its server does not answer any more."""
        async with self._transaction(lease) as tx:
            assert isinstance(work.owner, ReplicaWork), "only replicas are asked"
            replica = await tx.replicas.get(work.owner.replica_id)
            if replica.attempt_id == work.attempt.id and replica.state is ReplicaState.READY:
                await change_replica(tx, replica.unready(reason="does not answer"))

    async def exited(
        self,
        lease: Lease,
        work: AttemptWork,
        end: ContainerExit,
        outcome: Outcome,
        *,
        progress: JobProgress | None,
        kept: Kept = NOTHING_KEPT,
    ) -> bool:
        """Its program ended, and no process of it is left; False if that was recorded before.

        Raises Conflict when its owner was asked to stop since the runner looked, and may come back:
        what it left is to be kept then.
        """
        async with self._transaction(lease) as tx:
            attempt = await tx.attempts.get(work.attempt.id)
            if attempt.state is not AttemptState.STARTED:
                return False
            owner = await _current_owner(tx, work)
            # Only task 0 leaves something that is to be kept.
            if attempt.task == 0 and isinstance(owner, Job) and _is_stopped_since(work, owner):
                raise Conflict("job", owner.id)
            ending = _ending(owner, outcome, kept)
            exited = attempt.exited(end.code, ending, at=end.ended_at, is_end_seen=end.is_end_seen)
            await _save_attempt(tx, exited)
            await self._end_owner(tx, attempt, owner, outcome, progress=progress, kept=kept)
            await tx.nodes.release(attempt.node_id, attempt.resources)
        return True

    async def lost(
        self, lease: Lease, work: AttemptWork, failure: JobFailure, *, kept: Kept = NOTHING_KEPT
    ) -> None:
        """It is gone, or its node is, and nobody knows how it ended."""
        async with self._transaction(lease) as tx:
            attempt = await tx.attempts.get(work.attempt.id)
            if not attempt.is_terminal:
                owner = await _current_owner(tx, work)
                await _save_attempt(tx, attempt.lost(_ending(owner, failure, kept), at=tx.now))
                await self._end_owner(tx, attempt, owner, failure, kept=kept)
                await tx.nodes.release(attempt.node_id, attempt.resources)

    async def closed(self, lease: Lease, work: AttemptWork, failure: JobFailure) -> None:
        """It never started, and never will."""
        async with self._transaction(lease) as tx:
            attempt = await tx.attempts.get(work.attempt.id)
            if attempt.state is AttemptState.CREATED:
                owner = await _current_owner(tx, work)
                await _save_attempt(tx, attempt.closed(_ending(owner, failure), at=tx.now))
                await self._end_owner(tx, attempt, owner, failure)
                await tx.nodes.release(attempt.node_id, attempt.resources)

    async def _end_owner(
        self,
        tx: SystemTransaction,
        attempt: Attempt,
        owner: Job | Replica | None,
        outcome: Outcome,
        *,
        progress: JobProgress | None = None,
        kept: Kept = NOTHING_KEPT,
    ) -> None:
        if isinstance(owner, Replica):
            await _end_replica(tx, owner, outcome)
        if isinstance(owner, Job):
            job = owner if progress is None else owner.progressed(progress)
            if attempt.task_count > 1:
                outcome = _of_task(attempt, outcome, job)
                if await tx.attempts.goes_on(job.id, number=job.attempt_number):
                    job = job.kept(kept.checkpoint)
                    await _end_task(tx, attempt, job, outcome, before=owner)
                    return
            job, fact = await self._ended(tx, job, _meant(job, outcome), kept)
            await _save_job(tx, (job if job.is_terminal else job.kept(kept.checkpoint), fact))

    async def _ended(
        self, tx: SystemTransaction, job: Job, outcome: Outcome, kept: Kept
    ) -> tuple[Job, JobTransitioned]:
        """Return how the job ends, or that it is tried again."""
        if job.stop is not None and job.stop.is_for_now:
            # Even with exit code 0: what a program leaves when it is told to stop is no result.
            return job.requeued(reason=job.stop.reason + kept.told, at=tx.now)
        if job.stop is not None and job.stop.cause is StopCause.CANCELLED:
            return job.cancelled(reason=job.stop.reason, at=tx.now)
        if isinstance(outcome, Succeeded):
            return job.succeeded(outcome.outputs, at=tx.now)
        if not job.retries(outcome):
            return job.failed(outcome, at=tx.now)
        since = tx.now - _RETRIES_COUNTED
        if await tx.jobs.retried_count(job.tenant, since=since) >= self.retried_jobs_max:
            spent = f"{self.retried_jobs_max} jobs of its tenant were tried again within an hour"
            told = f"not tried again, since {spent}: {outcome.message}"
            return job.failed(replace(outcome, message=told), at=tx.now)
        outcome = replace(outcome, message=outcome.message + kept.told)
        return job.retried(outcome, at=tx.now, chance=self.chance())

    @asynccontextmanager
    async def _transaction(self, lease: Lease) -> AsyncIterator[SystemTransaction]:
        async with (
            self.turns,
            self.unit_of_work.system(because="a node runs any tenant's attempts") as tx,
        ):
            await tx.hold(lease)
            yield tx


async def _current_job(tx: SystemTransaction, work: AttemptWork) -> Job | None:
    """Return the attempt's job, locked; None for a replica's, or if the job has moved on."""
    if not isinstance(work.owner, JobWork):
        return None
    job = await tx.jobs.get_any(work.owner.job_id)
    return job if job.attempt_number == work.attempt.number else None


async def _current_owner(tx: SystemTransaction, work: AttemptWork) -> Job | Replica | None:
    """Return whose try it is, locked; None if that has ended, or has moved on."""
    if isinstance(work.owner, ReplicaWork):
        replica = await tx.replicas.get(work.owner.replica_id)
        is_current = replica.attempt_id == work.attempt.id and not replica.is_ended
        return replica if is_current else None
    job = await _current_job(tx, work)
    return None if job is None or job.is_terminal else job


def _of_task(attempt: Attempt, outcome: Outcome, job: Job) -> Outcome:
    """Return what a task's end means for its job: a failure names it, outputs are task 0's."""
    if isinstance(outcome, JobFailure):
        return replace(outcome, message=f"task {attempt.task}: {outcome.message}")
    return outcome if attempt.task == 0 else Succeeded(job.kept_outputs)


async def _end_task(
    tx: SystemTransaction, attempt: Attempt, job: Job, outcome: Outcome, *, before: Job
) -> None:
    """Let a job go on without one of its tasks; or stop the others, which it needs no more."""
    if isinstance(outcome, JobFailure):
        if (failed := job.task_failed(outcome, at=tx.now)) is not None:
            await _save_job(tx, failed)
            return
    elif attempt.task == 0:
        job = job.kept_output(outcome.outputs)
    if job != before:  # of hundreds that end one after another most change nothing of their job
        await tx.jobs.save(job)


async def _end_replica(tx: SystemTransaction, replica: Replica, outcome: Outcome) -> None:
    assert isinstance(outcome, JobFailure), "a server that ends did not succeed"
    deployment = await tx.deployments.get(replica.deployment_id)
    ended = replica.ended(reason=outcome.message, at=tx.now, comes_back=deployment.is_wanted)
    await change_replica(tx, ended)


def _ending(
    owner: Job | Replica | None, outcome: Outcome, kept: Kept = NOTHING_KEPT
) -> AttemptEnding:
    """Return why an attempt ends, as `_ended` decides of its job: a stop goes before all else."""
    stop = _stop_of(owner)
    if stop is not None:
        ending = AttemptEnding.stopped(stop)
    elif isinstance(outcome, Succeeded):
        ending = AttemptEnding.succeeded()
    else:
        ending = AttemptEnding.failed(outcome)
    return replace(ending, message=ending.message + kept.told)


def _stop_of(owner: Job | Replica | None) -> StopRequest | None:
    if isinstance(owner, Job):
        return owner.stop
    if owner is None or owner.state is not ReplicaState.STOPPING:
        return None
    assert owner.stop_requested_at is not None, "what is stopping was asked to"
    return StopRequest(StopCause.CANCELLED, owner.reason, owner.stop_requested_at)


def _is_stopped_since(work: AttemptWork, job: Job) -> bool:
    """Tell whether a job was asked to stop since the runner looked, and may come back."""
    return (
        job.stop is not None
        and job.stop != work.stop
        and job.stop.allows_return(job.spec.retries, retry_count=job.retry_count)
    )


def _meant(job: Job, outcome: Outcome) -> Outcome:
    """Return what an end means for a job that was stopped for a failure: that one.

    If it ran too long that is why, whatever its container says.
    """
    if job.stop is not None and job.stop.failure is not None:
        return job.stop.failure
    if job.stop is None or job.stop.cause is not StopCause.RUN_TIMEOUT:
        return outcome
    failure = outcome if isinstance(outcome, JobFailure) else JobFailure(_TIMEOUT, "")
    return replace(failure, reason=_TIMEOUT, message=job.stop.reason)


async def _save_job(tx: SystemTransaction, moved: tuple[Job, JobTransitioned]) -> Job:
    job, fact = moved
    await tx.jobs.save(job)
    tx.emit(fact)
    return job


async def _save_attempt(tx: SystemTransaction, moved: tuple[Attempt, AttemptTransitioned]) -> None:
    attempt, fact = moved
    await tx.attempts.save(attempt)
    tx.emit(fact)
