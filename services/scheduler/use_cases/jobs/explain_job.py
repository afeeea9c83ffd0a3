"""Say why a job waits, and about when it starts."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import Job, JobState
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.causes import Cause
from services.scheduler.domain.scheduling.explanation import (
    Explanation,
    Reason,
    reason_by_itself,
)
from services.scheduler.domain.scheduling.line import Head, Shape
from services.scheduler.domain.scheduling.place import Standing
from services.scheduler.domain.scheduling.shares import Shares
from services.scheduler.use_cases.jobs.shown import counted
from services.scheduler.use_cases.ports import Tenants, UnitOfWork
from services.scheduler.use_cases.scheduling.reason import LookAtLine


@dataclass(frozen=True, slots=True)
class ExplainJob:
    """Say the one thing that holds one of the tenant's jobs; raises NotFound, for another's too.

    By what a cycle would see now; nothing is locked, so it may be past when it is read.
    """

    unit_of_work: UnitOfWork
    tenants: Tenants
    look: LookAtLine

    async def __call__(self, tenant: TenantId, job_id: JobId) -> Explanation:
        """Return the explanation."""
        known = self.tenants.get(tenant)
        # 1. What holds it by itself, whatever line and nodes are like.
        async with self.unit_of_work(tenant) as tx:
            job = await tx.jobs.get(job_id)
            if job.state is not JobState.QUEUED:
                [job] = await counted([job], tx.jobs.element_counts)
                return Explanation(job, Reason(Cause.NOT_IN_LINE, _out_of_line(job)), tx.now)
            pauses = await tx.queues.pauses()
            booked = await tx.jobs.booked() if known.plan.running_max else Resources()
            pause = pauses.get(job.spec.queue)
            reason = reason_by_itself(job, known, pause=pause, booked=booked, at=tx.now)
            now = tx.now
        # 2. Else what does in line; and its place in any case.
        async with self.unit_of_work.reading(because="all tenants stand in one line") as reading:
            standing = await reading.line.standing(job_id)
            if reason is not None:
                shares = await self.look.shares(reading)
                return Explanation(job, reason, now, _jobs_before(job, standing, shares))
            seen = await self.look.see(
                reading, _head_of(job), alike_count=standing.alike_count, at=now
            )
        return Explanation(job, seen.reason, now, _jobs_before(job, standing, seen.around.shares))


def _out_of_line(job: Job) -> str:
    """Return why one that does not stand in line is where it is."""
    if not job.is_array or not (back_count := job.element_counts.get(JobState.QUEUED, 0)):
        return job.reason
    back = "1 of them is" if back_count == 1 else f"{back_count} of them are"
    return f"{job.reason}; {back} back in line, each explained by itself"


def _jobs_before(job: Job, standing: Standing, shares: Shares) -> int:
    return standing.jobs_before(job.tenant, job.spec.total_resources, shares)


def _head_of(job: Job) -> Head:
    """Return a job as the plan sees it, but for its place."""
    spec = job.spec
    shape = Shape(
        OwnerKind.JOB,
        job.tenant,
        job.priority,
        spec.resources,
        run_max=spec.timeouts.run,
        queue=spec.queue,
        task_count=spec.task_count,
    )
    return Head(job.id, 0, shape)
