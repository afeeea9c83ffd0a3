"""Let jobs go on that have waited for other jobs' ends."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.dependencies import after_ends
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.use_cases.one_by_one import one_by_one
from services.scheduler.use_cases.ports import Lease, UnitOfWork

_BECAUSE: Final = "any tenant's jobs wait for others"


@dataclass(frozen=True, slots=True)
class ReleaseJobs:
    """Let jobs go on whose needed ones have ended, and cancel those that wait for what can't come.

    What is to be done is seen from rows: a job waits, and one that it needs has ended. So no end is
    missed, whenever it was and however the submission lay to it (ADR-0036).

    Who could act late: a leader that was paused after it had looked. What refuses it: its
    transaction holds the lease and locks the job, and looks what that waits for still.
    """

    unit_of_work: UnitOfWork
    on_released: Callable[[], None]
    """Called when there may be new heads in line."""
    jobs_per_pass_max: int

    async def __call__(self, lease: Lease) -> int:
        """Run one pass; return how many jobs were due."""
        async with self.unit_of_work.system(because=_BECAUSE) as tx:
            due = await tx.jobs.releasable(limit=self.jobs_per_pass_max)
        try:
            await one_by_one(due, lambda job_id: self._release(lease, job_id))
        finally:  # one that fails keeps nobody else waiting
            if due:
                self.on_released()
        return len(due)

    async def _release(self, lease: Lease, job_id: JobId) -> None:
        async with self.unit_of_work.system(because=_BECAUSE) as tx:
            await tx.hold(lease)
            job = await tx.jobs.get_any(job_id)
            if job.state is not JobState.QUEUED or not job.needs:
                return
            # Not locked: an end is final, and one that comes after this look is for the next pass.
            states = await tx.jobs.states(job.tenant, [needed.job_id for needed in job.needs])
            job, fact = after_ends(job, states, at=tx.now)
            await tx.jobs.save(job)
            if fact is not None:
                tx.emit(fact)
