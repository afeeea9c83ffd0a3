"""Say why a job waits, and about when it starts."""

from dataclasses import dataclass
from datetime import datetime, timedelta

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
from services.scheduler.domain.scheduling.line import Line
from services.scheduler.domain.scheduling.plan import Snapshot
from services.scheduler.use_cases.ports import Reading, Tenants, UnitOfWork
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
            pauses = await tx.queues.pauses()
            booked = await tx.jobs.booked() if known.plan.running_max else Resources()
            doors = await tx.fleet.doors_for(
                job.spec.resources, tenant=tenant, silence_max=self.node_silence_max
            )
            now = tx.now
        pause = pauses.get(job.spec.queue)
        reason = reason_by_itself(job, known, pause=pause, booked=booked, at=now)
        async with self.unit_of_work.reading(because="all tenants stand in one line") as reading:
            standing = await reading.line.standing(job_id)
            seen = await self._look(reading, at=now, with_ends=reason is None)
        jobs_before = standing.jobs_before(tenant, job.spec.total_resources, seen.shares)
        return Explanation(job, reason or reason_in_line(job, seen, doors), now, jobs_before)

    async def _look(self, reading: Reading, *, at: datetime, with_ends: bool) -> Snapshot:
        """See what a cycle would see, as far as that is looked at."""
        line = Line.of(await reading.line.first(at=at, limit=self.heads_max))
        averages = await reading.usage.averages()
        return await snapshot(
            reading,
            self.tenants,
            line,
            held=await reading.attempts.held(),
            averages=averages.by_tenant,
            heads_max=self.heads_max,
            node_silence_max=self.node_silence_max,
            with_ends=with_ends,
        )
