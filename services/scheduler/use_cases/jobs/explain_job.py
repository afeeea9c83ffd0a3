"""Say why a job waits, and about when it starts."""

from dataclasses import dataclass
from datetime import timedelta

from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.explanation import (
    Explanation,
    Hold,
    Reason,
    reason_by_itself,
    reason_in_line,
)
from services.scheduler.use_cases.ports import Tenants, UnitOfWork
from services.scheduler.use_cases.scheduling.snapshot import snapshot


@dataclass(frozen=True, slots=True)
class ExplainJob:
    """Say the one thing that holds one of the tenant's jobs; raises NotFound, for another's too.

    By what a cycle would see now; nothing is locked, so it may be past when it is read.
    """

    unit_of_work: UnitOfWork
    tenants: Tenants
    heads_max: int
    """As a cycle's: who stands further back is told no instant."""
    node_silence_max: timedelta

    async def __call__(self, tenant: TenantId, job_id: JobId) -> Explanation:
        """Return the explanation."""
        known = self.tenants.get(tenant)
        async with self.unit_of_work(tenant) as tx:
            job = await tx.jobs.get(job_id)
            if job.state is not JobState.QUEUED:
                return Explanation(job, Reason(Hold.NONE, job.reason), tx.now)
            booked = await tx.jobs.booked() if known.plan.running_max else Resources()
            doors = await tx.fleet.doors_for(
                job.spec.resources, tenant=tenant, silence_max=self.node_silence_max
            )
            now = tx.now
        reason = reason_by_itself(job, known, booked=booked, at=now)
        async with self.unit_of_work.reading(because="all tenants stand in one line") as reading:
            jobs_before = await reading.line.place_of(job_id)
            if reason is None:
                seen = await snapshot(
                    reading,
                    self.tenants,
                    at=now,
                    heads_max=self.heads_max,
                    node_silence_max=self.node_silence_max,
                    with_ends=True,
                )
                reason = reason_in_line(job, seen, doors)
        return Explanation(job, reason, now, jobs_before)
