"""Take a job in."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.chassis.errors import QueueFull
from services.chassis.ids import Ids
from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.jobs.spec import JobSpec, check_image_known
from services.scheduler.use_cases.ports import RequestKey, Tenants, UnitOfWork

METHOD: Final = "SubmitJob"


@dataclass(frozen=True, slots=True)
class SubmitJob:
    """Queue a job: row, event and idempotency row in one commit, before the answer."""

    unit_of_work: UnitOfWork
    tenants: Tenants
    ids: Ids
    queued_jobs_max: int
    """How many of a tenant's jobs may stand in line, where its plan does not say."""
    retry_after: timedelta
    images: Collection[str]
    """Those that the nodes' runtime knows."""

    async def __call__(
        self,
        tenant: TenantId,
        spec: JobSpec,
        *,
        key: RequestKey | None,
        traceparent: str | None,
    ) -> Job:
        """Return the queued job, or for a repeated request the job that the first one made."""
        # 1. The description is within its bounds.
        spec.check()
        job_id = JobId(self.ids.new("job"))
        async with self.unit_of_work(tenant) as tx:
            # 2. A repeated request is answered as before, however full the line is by now.
            if key is not None:
                made = await tx.answers.remember(METHOD, key, job_id)
                if made is not None:
                    return await tx.jobs.get(JobId(made))
            # 3. Its tenant may start something, of this priority.
            known = self.tenants.get(tenant)
            known.check_active()
            known.plan.check_priority(spec.priority, field="spec.priority")
            known.plan.check_resources(spec.resources, field="spec.resources")
            # 4. There is an image and a machine for it, and a place in line.
            check_image_known(spec.image, self.images, field="spec.image")
            reach = await tx.fleet.reach_for(spec.resources)
            reach.check(spec.resources, field="spec.resources")
            limit = known.plan.queued_jobs_max
            limit = self.queued_jobs_max if limit is None else limit
            if await tx.jobs.queued_count() >= limit:
                raise QueueFull("jobs", limit=limit, retry_after=self.retry_after)
            # 5. Last in line.
            job, queued = Job.queued(job_id, tenant, spec, at=tx.now, traceparent=traceparent)
            await tx.jobs.add(job)
            tx.emit(queued)
        return job
