"""Stop the elements of arrays that are to stop."""

from dataclasses import dataclass
from typing import Final

from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import StopCause
from services.scheduler.use_cases.jobs.ask_to_stop import ask_to_stop
from services.scheduler.use_cases.one_by_one import one_by_one
from services.scheduler.use_cases.ports import Lease, UnitOfWork

_BECAUSE: Final = "any tenant's arrays stop with their elements"


@dataclass(frozen=True, slots=True)
class StopElements:
    """Ask each element of an array that was cancelled to stop; those in line end at once.

    Also those that stop for now: else they would come back.

    Who could act late: an admission that took an element before it saw the cancellation, or an end
    that puts one back in line. What refuses it: this looks at what is, again and again, and no
    array ends before its elements have; and no cycle admits an element of an array that stops.
    """

    unit_of_work: UnitOfWork
    jobs_per_pass_max: int

    async def __call__(self, lease: Lease) -> int:
        """Run one pass; return how many elements were due."""
        async with self.unit_of_work.system(because=_BECAUSE) as tx:
            due = await tx.jobs.of_stopping_arrays(limit=self.jobs_per_pass_max)
        await one_by_one(due, lambda element_id: self._stop(lease, element_id))
        return len(due)

    async def _stop(self, lease: Lease, element_id: JobId) -> None:
        async with self.unit_of_work.system(because=_BECAUSE) as tx:
            await tx.hold(lease)
            job = await tx.jobs.get_any(element_id)
            if job.is_terminal or job.element is None:
                return
            for array in await tx.jobs.some([job.element.array_id]):
                if array.stop is not None:
                    reason = array.stop.reason
                    await ask_to_stop(tx, job, reason=reason, cause=StopCause.CANCELLED)
