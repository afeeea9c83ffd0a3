"""Take a job in."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.chassis.errors import InvalidArgument, QueueFull
from services.chassis.ids import Ids
from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.jobs.spec import JobSpec, check_image_known
from services.scheduler.use_cases.ports import RequestKey, UnitOfWork

METHOD: Final = "SubmitJob"


@dataclass(frozen=True, slots=True)
class SubmitJob:
    """Queue a job: row, event and idempotency row in one commit, before the answer."""

    unit_of_work: UnitOfWork
    ids: Ids
    queued_jobs_max: int
    """How many of a tenant's jobs may stand in line."""
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
        async with self.unit_of_work(tenant) as tx:
            # 2. A repeated request is answered as before, however full the line is by now.
            if key is not None:
                made = await tx.answers.remember(METHOD, key)
                if made is not None:
                    return await tx.jobs.get(JobId(made))
            # 3. There is an image and a machine for it, and a place in line.
            check_image_known(spec.image, self.images, field="spec.image")
            if not await tx.fleet.could_ever_fit(spec.resources):
                raise InvalidArgument("spec.resources", "no node is large enough")
            if await tx.jobs.queued_count() >= self.queued_jobs_max:
                raise QueueFull("jobs", limit=self.queued_jobs_max, retry_after=self.retry_after)
            # 4. Last in line.
            job, queued = Job.queued(
                JobId(self.ids.new("job")), tenant, spec, at=tx.now, traceparent=traceparent
            )
            await tx.jobs.add(job)
            tx.emit(queued)
            if key is not None:
                await tx.answers.answer(METHOD, key, job.id)
        return job
