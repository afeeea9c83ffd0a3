"""Let go of a container whose attempt is over and whose output is stored."""

from dataclasses import dataclass
from datetime import datetime

from services.chassis.errors import NotFound
from services.scheduler.domain.attempts.attempt import container_name
from services.scheduler.domain.attempts.runtime import ContainerPhase
from services.scheduler.domain.identities import AttemptId
from services.scheduler.use_cases.attempts.ports import ContainerRuntime, NodeLease
from services.scheduler.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    """Delete an attempt's container from this node, if it is here and its end is recorded.

    Until then its folder is the only place that knows how it ended and what it left.
    """

    unit_of_work: UnitOfWork
    runtime: ContainerRuntime
    node_lease: NodeLease

    async def __call__(self, attempt_id: AttemptId) -> bool:
        """Return whether it was deleted."""
        name = container_name(attempt_id)
        container = await self.runtime.inspect(name)
        if container.phase in {ContainerPhase.ABSENT, ContainerPhase.RUNNING}:
            return False
        if self.node_lease.held is None or await self.ended_at(attempt_id) is None:
            return False
        await self.runtime.remove(name)
        return True

    async def ended_at(self, attempt_id: AttemptId) -> datetime | None:
        """Return when an attempt's end was recorded; one that nobody knows has ended long ago."""
        async with self.unit_of_work.system(because="a node holds any tenant's containers") as tx:
            try:
                attempt = await tx.attempts.get(attempt_id)
            except NotFound:
                return datetime.min.replace(tzinfo=tx.now.tzinfo)
        return attempt.ended_at
