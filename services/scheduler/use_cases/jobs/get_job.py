"""Show one job."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import Job
from services.scheduler.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class GetJob:
    """Show one of the tenant's jobs; raises NotFound, for another tenant's too."""

    unit_of_work: UnitOfWork

    async def __call__(self, tenant: TenantId, job_id: JobId) -> Job:
        """Return the job."""
        async with self.unit_of_work(tenant) as tx:
            return await tx.jobs.get(job_id)
