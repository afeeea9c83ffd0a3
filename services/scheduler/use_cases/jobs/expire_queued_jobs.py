"""End the jobs that have stood in line for longer than they may."""

from dataclasses import dataclass
from typing import Final

from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.use_cases.one_by_one import one_by_one
from services.scheduler.use_cases.ports import Lease, UnitOfWork

_BECAUSE: Final = "time in line ends for any tenant's job"


@dataclass(frozen=True, slots=True)
class ExpireQueuedJobs:
    """Fail each queued job whose time in line is over.

    Who could act late: a leader that was paused after it had looked. What refuses it: its
    transaction holds the lease and locks the job, and looks whether it is in line still.
    """

    unit_of_work: UnitOfWork
    jobs_per_pass_max: int

    async def __call__(self, lease: Lease) -> int:
        """Run one pass; return how many jobs were due."""
        async with self.unit_of_work.system(because=_BECAUSE) as tx:
            due = await tx.jobs.expired(at=tx.now, limit=self.jobs_per_pass_max)
        await one_by_one(due, lambda job_id: self._expire(lease, job_id))
        return len(due)

    async def _expire(self, lease: Lease, job_id: JobId) -> None:
        async with self.unit_of_work.system(because=_BECAUSE) as tx:
            await tx.hold(lease)
            job = await tx.jobs.get_any(job_id)
            expires_at = job.queue_expires_at
            if job.state is JobState.QUEUED and expires_at is not None and expires_at <= tx.now:
                job, fact = job.expired(at=tx.now)
                await tx.jobs.save(job)
                tx.emit(fact)
