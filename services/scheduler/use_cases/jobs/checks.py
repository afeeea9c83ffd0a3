"""Whether a job could be taken in: by its tenant, its image, the machines there are, and the line.

Owns: what a submission is refused for beyond its description, once for those who submit and for
those who only ask (`check_job`). Leaves to them where the figures come from, and whether they hold
until the job stands in line.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from services.chassis.errors import QueueFull
from services.chassis.tenancy import TenantId
from services.scheduler.domain.fleet.reach import FleetReach
from services.scheduler.domain.jobs.spec import JobSpec, check_image_known
from services.scheduler.use_cases.ports import Tenants


@dataclass(frozen=True, slots=True)
class JobChecks:
    """Raises what a job is refused for; each check alone."""

    tenants: Tenants
    queued_jobs_max: int
    """How many of a tenant's jobs may stand in line, where its plan does not say."""
    retry_after: timedelta
    images: Collection[str]
    """Those that the nodes' runtime knows."""

    def check_allowed(self, tenant: TenantId, spec: JobSpec) -> None:
        """Raise TenantSuspended, or InvalidArgument for what its plan or no runtime allows."""
        known = self.tenants.get(tenant)
        known.check_active()
        known.plan.check_priority(spec.priority, field="spec.priority")
        known.plan.check_resources(spec.resources, field="spec.resources")
        known.plan.check_together(spec.resources, count=spec.task_count, field="spec.task_count")
        check_image_known(spec.image, self.images, field="spec.image")

    def check_reach(self, reach: FleetReach, spec: JobSpec) -> None:
        """Raise InvalidArgument for what no node could ever hold."""
        reach.check(spec.resources, field="spec.resources")

    def check_place(self, tenant: TenantId, *, queued_count: int) -> None:
        """Raise QueueFull when so many in line leave no place for another."""
        limit = self.tenants.get(tenant).plan.queued_jobs_max
        limit = self.queued_jobs_max if limit is None else limit
        if queued_count >= limit:
            raise QueueFull("jobs in line", limit=limit, retry_after=self.retry_after)
