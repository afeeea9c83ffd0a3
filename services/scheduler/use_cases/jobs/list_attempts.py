"""Show what became of each try to run a job."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import Attempt
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.use_cases.paging import Page, PageRequest
from services.scheduler.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class ListAttempts:
    """Show a job's attempts, the first one first; raises NotFound, for another tenant's job too."""

    unit_of_work: UnitOfWork

    async def __call__(self, tenant: TenantId, job_id: JobId, page: PageRequest) -> Page[Attempt]:
        """Return a page of the job's attempts."""
        async with self.unit_of_work(tenant) as tx:
            job = await tx.jobs.get(job_id)
            found = await tx.jobs.attempts(
                job.id, after=AttemptId(page.after) if page.after else None, limit=page.size + 1
            )
        return Page.of(found, page.size, lambda attempt: attempt.id)
