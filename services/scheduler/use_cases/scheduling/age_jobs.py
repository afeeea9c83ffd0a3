"""Let those that have waited for long stand in line with a larger priority."""

from dataclasses import dataclass
from datetime import timedelta

from services.scheduler.use_cases.ports import Lease, Tenants, UnitOfWork


@dataclass(frozen=True, slots=True)
class AgeJobs:
    """Give jobs that have waited for so long with their priority the next larger one (ADR-0041).

    None of a suspended tenant, whose turns can't come.

    Who could act late: a leader that was paused. What refuses it: its transaction holds the lease.
    """

    unit_of_work: UnitOfWork
    tenants: Tenants
    after: timedelta
    jobs_per_pass_max: int

    async def __call__(self, lease: Lease) -> int:
        """Run one pass; return how many jobs were due."""
        async with self.unit_of_work.system(because="any tenant's jobs wait") as tx:
            await tx.hold(lease)
            return await tx.line.age(
                after=self.after,
                but_for=list(self.tenants.suspended()),
                limit=self.jobs_per_pass_max,
            )
