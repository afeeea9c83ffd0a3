"""Delete the jobs that ended long ago."""

from dataclasses import dataclass
from datetime import timedelta

from services.scheduler.use_cases.ports import Lease, UnitOfWork


@dataclass(frozen=True, slots=True)
class DeleteEndedJobs:
    """Delete jobs, with their attempts, so long after their end that nobody asks for them.

    Who could act late: somebody who reports of such a job. Nothing refuses it, and nothing comes of
    it: an end is final, and of an attempt that nobody knows any container is deleted. A repeated
    submission is refused as one whose job is not found, for as long as its key is remembered, which
    is shorter than any job is kept.
    """

    unit_of_work: UnitOfWork
    kept: timedelta
    jobs_per_pass_max: int

    async def __call__(self, lease: Lease) -> int:
        """Run one pass; return how many jobs were deleted."""
        async with self.unit_of_work.system(because="any tenant's jobs have their time") as tx:
            await tx.hold(lease)
            return await tx.leavings.delete_ended_jobs(self.kept, limit=self.jobs_per_pass_max)
