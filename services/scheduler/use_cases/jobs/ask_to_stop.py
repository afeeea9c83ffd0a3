"""The one way in which loops ask a placed job to stop."""

from services.scheduler.domain.jobs.job import Job, StopCause
from services.scheduler.use_cases.ports import SystemTransaction


async def ask_to_stop(tx: SystemTransaction, job: Job, *, reason: str, cause: StopCause) -> None:
    """Ask for the end of a job that this transaction has read; again: the first request stands."""
    asked = job.asked_to_stop(reason=reason, at=tx.now, cause=cause)
    if asked is not None:
        job, fact = asked
        await tx.jobs.save(job)
        tx.emit(fact)
