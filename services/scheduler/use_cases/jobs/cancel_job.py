"""End a job at its owner's wish."""

from dataclasses import dataclass
from typing import Final

from services.chassis.errors import InvalidArgument
from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import Job
from services.scheduler.use_cases.jobs.shown import counted
from services.scheduler.use_cases.ports import UnitOfWork

REASON_CHARACTERS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Ask for a job's end, whatever stage it has reached.

    A queued one is CANCELLED at once; from ADMITTED on it is STOPPING until its runtime confirms.
    An array is STOPPING from its first element on, until they all have ended.
    """

    unit_of_work: UnitOfWork

    async def __call__(self, tenant: TenantId, job_id: JobId, *, reason: str) -> Job:
        """Return the job after the request; raises FailedPrecondition when it had ended itself."""
        check_reason(reason)
        async with self.unit_of_work(tenant) as tx:
            job = await tx.jobs.get_for_update(job_id)
            asked = job.asked_to_stop(reason=reason or "cancelled by request", at=tx.now)
            if asked is not None:
                job, fact = asked
                await tx.jobs.save(job)
                tx.emit(fact)
            [shown] = await counted([job], tx.jobs.element_counts)
        return shown


def check_reason(reason: str) -> None:
    """Raise InvalidArgument for what can't be shown as a job's reason."""
    if len(reason) > REASON_CHARACTERS_MAX or not reason.isprintable():
        raise InvalidArgument(
            "reason", f"must have at most {REASON_CHARACTERS_MAX} printable characters"
        )
