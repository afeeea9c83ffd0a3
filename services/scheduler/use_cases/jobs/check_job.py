"""Say what a job would be refused for, before anything is sent for it."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.scheduler.domain.jobs.dependencies import needs_of
from services.scheduler.domain.jobs.spec import JobSpec
from services.scheduler.use_cases.jobs.checks import JobChecks
from services.scheduler.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class CheckJob:
    """Raise what a submission would be refused for now; nothing is written, no place is kept.

    A later submission may find the line full, the plan lower or a node gone. Source and inputs need
    not be stored: submissions don't look for them either.
    """

    unit_of_work: UnitOfWork
    checks: JobChecks

    async def __call__(self, tenant: TenantId, spec: JobSpec) -> None:
        """Return when the job could be taken in; raises as a submission does, in its order."""
        spec.check()
        self.checks.check_allowed(tenant, spec)
        if spec.after:
            async with self.unit_of_work(tenant) as tx:
                needs_of(spec, await tx.jobs.states([needed.job_id for needed in spec.after]))
        async with self.unit_of_work.reading(because="a check writes nothing") as reading:
            reach = await reading.fleet.reach_for(spec.resources)
            queued_count = await reading.line.queued_count(tenant)
        self.checks.check_reach(reach, spec)
        self.checks.check_place(tenant, queued_count=queued_count)
