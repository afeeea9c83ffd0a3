"""Let a queue's jobs start again."""

from collections.abc import Callable
from dataclasses import dataclass

from loguru import logger

from services.chassis.tenancy import TenantId
from services.scheduler.domain.queues.queue import Queue, check_queue_name
from services.scheduler.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class ResumeQueue:
    """End the pause of one of the tenant's queues; asking again changes nothing."""

    unit_of_work: UnitOfWork
    resumed: Callable[[], None]
    """Wakes whoever admits jobs."""

    async def __call__(self, tenant: TenantId, name: str, *, by: str) -> Queue:
        """Return the queue as it is now; `by` is who does it, for the log."""
        check_queue_name(name, field="queue")
        async with self.unit_of_work(tenant) as tx:
            await tx.queues.resume(name)
            queue = await tx.queues.get(name)
        logger.info("queue resumed", tenant=tenant, queue=name, by=by)
        self.resumed()
        return queue
