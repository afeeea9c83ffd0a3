"""The leader's look, after its cycle, at who could make room for the first job without any.

Owns: when it looks: at once for a job that has become the first, then each interval while it is
that; a look reads all that runs. A failed one is told and tried again after the next cycle.
"""

from dataclasses import dataclass

from loguru import logger

from services.chassis.db.lease import HeldLease, Recurrence
from services.chassis.errors import ModelyardError
from services.scheduler.domain.scheduling.line import Head
from services.scheduler.use_cases.scheduling.preempt_jobs import PreemptJobs


@dataclass(slots=True)
class MakeRoom:
    """Has jobs preempted, where that is switched on; one cycle after another."""

    preempt: PreemptJobs
    recurrence: Recurrence
    _looked_for: str | None = None

    async def __call__(self, held: HeldLease, head: Head) -> None:
        """Look for a job without room, if it is time."""
        if head.id != self._looked_for:
            self.recurrence.bring_forward()
        if not self.recurrence.is_due(held):
            return
        try:
            await self.preempt(held, head)
        except ModelyardError as error:
            logger.warning("preemption failed", error=error.message)
            return
        except Exception as error:  # noqa: BLE001 a bug that one look meets ends no process
            logger.opt(exception=error).error("preemption failed")
            return
        self.recurrence.done(held)
        self._looked_for = head.id
