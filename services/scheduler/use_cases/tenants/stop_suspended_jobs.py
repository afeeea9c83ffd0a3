"""Stop what runs of suspended tenants."""

from dataclasses import dataclass

from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import StopCause
from services.scheduler.use_cases.jobs.ask_to_stop import ask_to_stop
from services.scheduler.use_cases.one_by_one import one_by_one
from services.scheduler.use_cases.ports import Lease, Tenants, UnitOfWork


@dataclass(frozen=True, slots=True)
class StopSuspendedJobs:
    """Ask each placed job of a suspended tenant to stop, with its grace; it goes back in line.

    Who could act late: a cycle that admitted before it heard of the suspension, or a leader that
    was paused. What refuses it: this looks at what is, again and again, so a late admission is
    found at the next pass; and its transactions hold the leader's lease.
    """

    unit_of_work: UnitOfWork
    tenants: Tenants
    jobs_per_pass_max: int

    async def __call__(self, lease: Lease) -> int:
        """Run one pass; returns how many jobs were found running."""
        # 1. While nobody is suspended nothing is asked.
        suspended = self.tenants.suspended()
        if not suspended:
            return 0
        # 2. Find what is placed.
        async with self.unit_of_work.system(because="suspension stops jobs of tenants") as tx:
            placed = await tx.jobs.placed(list(suspended), limit=self.jobs_per_pass_max)
        # 3. Each in a transaction of its own, in which it may have moved on.
        await one_by_one(placed, lambda job_id: self._stop(lease, job_id))
        return len(placed)

    async def _stop(self, lease: Lease, job_id: JobId) -> None:
        async with self.unit_of_work.system(because="suspension stops any tenant's job") as tx:
            await tx.hold(lease)
            job = await tx.jobs.get_any(job_id)
            tenant = self.tenants.get(job.tenant)
            if not tenant.is_suspended or not job.is_placed:
                return
            await ask_to_stop(tx, job, reason=tenant.why_waiting, cause=StopCause.SUSPENDED)
