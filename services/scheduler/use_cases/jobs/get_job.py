"""Show one job."""

from dataclasses import dataclass
from datetime import timedelta

from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import Job
from services.scheduler.use_cases.jobs.shown import shown
from services.scheduler.use_cases.ports import Tenants, UnitOfWork


@dataclass(frozen=True, slots=True)
class GetJob:
    """Show one of the tenant's jobs; raises NotFound, for another tenant's too."""

    unit_of_work: UnitOfWork
    tenants: Tenants
    node_silence_max: timedelta

    async def __call__(self, tenant: TenantId, job_id: JobId) -> Job:
        """Return the job."""
        known = self.tenants.get(tenant)
        async with self.unit_of_work(tenant) as tx:
            job = await tx.jobs.get(job_id)
            [found] = await shown(tx, [job], of=known, node_silence_max=self.node_silence_max)
        return found
