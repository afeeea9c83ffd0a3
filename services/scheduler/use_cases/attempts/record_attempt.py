"""What happened to an attempt, recorded with what it means for its owner."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from services.scheduler.domain.attempts.attempt import (
    Attempt,
    AttemptState,
    AttemptTransitioned,
    LogLocation,
)
from services.scheduler.domain.attempts.runtime import ContainerExit
from services.scheduler.domain.attempts.work import AttemptWork, JobWork, ReplicaWork
from services.scheduler.domain.deployments.replica import ReplicaState
from services.scheduler.domain.jobs.job import (
    FailureReason,
    Job,
    JobFailure,
    JobProgress,
    JobState,
    JobTransitioned,
    OutputManifest,
    StopCause,
)
from services.scheduler.use_cases.deployments.change_replica import change_replica
from services.scheduler.use_cases.ports import Lease, SystemTransaction, UnitOfWork

_TIMEOUT: Final = FailureReason.RUN_TIMEOUT


@dataclass(frozen=True, slots=True)
class Succeeded:
    """A job left what it should."""

    outputs: tuple[OutputManifest, ...]


Outcome = Succeeded | JobFailure
"""What an end means for its owner, unless that was asked to stop."""


@dataclass(frozen=True, slots=True)
class RecordAttempt:
    """Write down, each in one transaction, what the runtime has confirmed.

    Who could act late: a runner whose node was given to another one. `hold` refuses it, and the
    state tables refuse what was recorded before, so each act may be repeated. An owner that has
    moved on to another attempt is left alone; the attempt still ends and frees its capacity.
    """

    unit_of_work: UnitOfWork

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
        self, lease: Lease, work: AttemptWork, *, log_location: LogLocation, at: datetime
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
                await _save_job(tx, job.running(at=at))

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
            asked = job.asked_to_stop(
                reason=f"ran longer than {job.spec.timeouts.run}",
                at=tx.now,
                cause=StopCause.RUN_TIMEOUT,
            )
            if asked is not None:
                await _save_job(tx, asked)

    async def answers(self, lease: Lease, work: AttemptWork, *, address: str) -> None:
        """Its server can be asked."""
        async with self._transaction(lease) as tx:
            assert isinstance(work.owner, ReplicaWork), "only replicas are asked"
            replica = await tx.replicas.get(work.owner.replica_id)
            if replica.attempt_id == work.attempt.id and replica.state is ReplicaState.WARMING:
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
    ) -> bool:
        """Its program ended, and no process of it is left; False if that was recorded before."""
        async with self._transaction(lease) as tx:
            attempt = await tx.attempts.get(work.attempt.id)
            if attempt.state is not AttemptState.STARTED:
                return False
            exited = attempt.exited(end.code, at=end.ended_at, is_end_seen=end.is_end_seen)
            await _save_attempt(tx, exited)
            await _end_owner(tx, work, outcome, progress=progress)
            await tx.nodes.release(attempt.node_id, attempt.resources)
        return True

    async def lost(self, lease: Lease, work: AttemptWork, failure: JobFailure) -> None:
        """It was started and is gone, and nobody knows how it ended."""
        async with self._transaction(lease) as tx:
            attempt = await tx.attempts.get(work.attempt.id)
            if attempt.state is AttemptState.STARTED:
                await _save_attempt(tx, attempt.lost(at=tx.now))
                await _end_owner(tx, work, failure)
                await tx.nodes.release(attempt.node_id, attempt.resources)

    async def closed(self, lease: Lease, work: AttemptWork, failure: JobFailure) -> None:
        """It never started, and never will."""
        async with self._transaction(lease) as tx:
            attempt = await tx.attempts.get(work.attempt.id)
            if attempt.state is AttemptState.CREATED:
                await _save_attempt(tx, attempt.closed(at=tx.now))
                await _end_owner(tx, work, failure)
                await tx.nodes.release(attempt.node_id, attempt.resources)

    @asynccontextmanager
    async def _transaction(self, lease: Lease) -> AsyncIterator[SystemTransaction]:
        async with self.unit_of_work.system(because="a node runs any tenant's attempts") as tx:
            await tx.hold(lease)
            yield tx


async def _current_job(tx: SystemTransaction, work: AttemptWork) -> Job | None:
    """Return the attempt's job, locked; None for a replica's, or if the job has moved on."""
    if not isinstance(work.owner, JobWork):
        return None
    job = await tx.jobs.get_any(work.owner.job_id)
    return job if job.attempt_id == work.attempt.id else None


async def _end_owner(
    tx: SystemTransaction,
    work: AttemptWork,
    outcome: Outcome,
    *,
    progress: JobProgress | None = None,
) -> None:
    if isinstance(work.owner, ReplicaWork):
        replica = await tx.replicas.get(work.owner.replica_id)
        if replica.attempt_id == work.attempt.id and not replica.is_ended:
            assert isinstance(outcome, JobFailure), "a server that ends did not succeed"
            deployment = await tx.deployments.get(replica.deployment_id)
            ended = replica.ended(
                reason=outcome.message, at=tx.now, comes_back=deployment.is_wanted
            )
            await change_replica(tx, ended)
        return
    job = await _current_job(tx, work)
    if job is None or job.is_terminal:
        return
    if progress is not None:
        job = job.progressed(progress)
    await _save_job(tx, _ended(job, outcome, at=tx.now))


def _ended(job: Job, outcome: Outcome, *, at: datetime) -> tuple[Job, JobTransitioned]:
    """Return how the job ends: as it was asked to, or else as its container did."""
    if job.stop is not None and job.stop.cause is StopCause.SUSPENDED:
        # Even with exit code 0: what a program leaves when it is told to stop is no result.
        return job.requeued(reason=job.stop.reason, at=at)
    if job.stop is not None and job.stop.cause is StopCause.CANCELLED:
        return job.cancelled(reason=job.stop.reason, at=at)
    if job.stop is not None:
        failure = outcome if isinstance(outcome, JobFailure) else JobFailure(_TIMEOUT, "")
        timed_out = replace(failure, reason=_TIMEOUT, message=job.stop.reason)
        return job.failed(timed_out, at=at)
    if isinstance(outcome, Succeeded):
        return job.succeeded(outcome.outputs, at=at)
    return job.failed(outcome, at=at)


async def _save_job(tx: SystemTransaction, moved: tuple[Job, JobTransitioned]) -> Job:
    job, fact = moved
    await tx.jobs.save(job)
    tx.emit(fact)
    return job


async def _save_attempt(tx: SystemTransaction, moved: tuple[Attempt, AttemptTransitioned]) -> None:
    attempt, fact = moved
    await tx.attempts.save(attempt)
    tx.emit(fact)
