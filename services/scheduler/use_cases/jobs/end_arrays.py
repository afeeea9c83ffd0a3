"""End the arrays whose elements have all ended."""

from dataclasses import dataclass
from typing import Final

from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.array import after_all
from services.scheduler.use_cases.one_by_one import one_by_one
from services.scheduler.use_cases.ports import Lease, UnitOfWork

_BECAUSE: Final = "any tenant's arrays end by their elements"


@dataclass(frozen=True, slots=True)
class EndArrays:
    """End each array that has left the line, once none of its elements is open.

    What is to be done is seen from rows, so no element's end is missed; and none has to wait for
    its array's row (ADR-0040).

    Who could act late: a leader that was paused after it had looked. What refuses it: its
    transaction holds the lease and locks the array, and counts its elements again. None comes to an
    array that is not in line, and ends are final.
    """

    unit_of_work: UnitOfWork
    jobs_per_pass_max: int

    async def __call__(self, lease: Lease) -> int:
        """Run one pass; return how many arrays were due."""
        async with self.unit_of_work.system(because=_BECAUSE) as tx:
            due = await tx.jobs.arrays_without_open(limit=self.jobs_per_pass_max)
        await one_by_one(due, lambda array_id: self._end(lease, array_id))
        return len(due)

    async def _end(self, lease: Lease, array_id: JobId) -> None:
        async with self.unit_of_work.system(because=_BECAUSE) as tx:
            await tx.hold(lease)
            array = await tx.jobs.get_any(array_id)
            counts = await tx.jobs.element_counts(array.tenant, [array_id])
            ended = after_all(array, counts[array_id], at=tx.now)
            if ended is not None:
                array, fact = ended
                await tx.jobs.save(array)
                tx.emit(fact)
