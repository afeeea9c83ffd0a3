"""Keep a queue's jobs from their start."""

from dataclasses import dataclass

from loguru import logger

from services.chassis.errors import QuotaExceeded
from services.chassis.tenancy import TenantId
from services.scheduler.domain.queues.queue import PAUSES_MAX, Pause, Queue, check_queue_name
from services.scheduler.use_cases.jobs.cancel_job import check_reason
from services.scheduler.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class PauseQueue:
    """Admit nothing of one of the tenant's queues from the commit on; what runs goes on.

    Its jobs keep their places in line. Asking again changes nothing: the first reason stands.

    Who could act late: a cycle with a line in memory. What refuses it: it reads which queues are
    paused in its own transaction, before it decides; what an earlier one has placed stands.
    """

    unit_of_work: UnitOfWork

    async def __call__(self, tenant: TenantId, name: str, *, reason: str, by: str) -> Queue:
        """Return the queue as it is now; raises QuotaExceeded when too many are paused.

        `by` is who does it, for the log.
        """
        check_queue_name(name, field="queue")
        check_reason(reason)
        async with self.unit_of_work(tenant) as tx:
            pauses = await tx.queues.pauses_for_update()
            if name not in pauses:
                if len(pauses) >= PAUSES_MAX:
                    raise QuotaExceeded("paused queues", limit=PAUSES_MAX, used=len(pauses))
                await tx.queues.pause(Pause(name, tx.now, reason or "paused by request"))
            queue = await tx.queues.get(name)
        logger.info("queue paused", tenant=tenant, queue=name, by=by)
        return queue
