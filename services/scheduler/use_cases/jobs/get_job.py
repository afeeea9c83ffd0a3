"""Show one job."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.resources import Resources
from services.scheduler.use_cases.ports import Tenants, UnitOfWork


@dataclass(frozen=True, slots=True)
class GetJob:
    """Show one of the tenant's jobs; raises NotFound, for another tenant's too."""

    unit_of_work: UnitOfWork
    tenants: Tenants

    async def __call__(self, tenant: TenantId, job_id: JobId) -> Job:
        """Return the job."""
        known = self.tenants.get(tenant)
        async with self.unit_of_work(tenant) as tx:
            job = await tx.jobs.get(job_id)
            booked = await tx.jobs.booked() if known.plan.running_max else Resources()
        return known.job_shown(job, booked=booked)
