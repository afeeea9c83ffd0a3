"""Show how a tenant's jobs have fared."""

from dataclasses import dataclass
from datetime import timedelta

from services.chassis.tenancy import TenantId
from services.scheduler.domain.jobs.stats import STATS_JOBS_MAX, JobStats, check_window
from services.scheduler.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class GetStats:
    """Show how long a tenant's jobs waited and ran, and how they ended, in a window up to now.

    Of jobs that are kept: those that ended are deleted some day. Raises InvalidArgument.
    """

    unit_of_work: UnitOfWork

    async def __call__(self, tenant: TenantId, *, window: timedelta) -> JobStats:
        """Return the stats."""
        check_window(window)
        async with self.unit_of_work(tenant) as tx:
            since = tx.now - window
            waits = await tx.jobs.waits(since=since, limit=STATS_JOBS_MAX)
            ends = await tx.jobs.ends(since=since, limit=STATS_JOBS_MAX)
            return JobStats(since, tx.now, waits, ends)
