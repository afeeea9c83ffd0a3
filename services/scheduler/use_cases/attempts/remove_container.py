"""Let go of a container whose attempt is over and whose output is stored."""

from dataclasses import dataclass

from services.scheduler.domain.attempts.attempt import container_name
from services.scheduler.domain.attempts.runtime import ContainerPhase
from services.scheduler.domain.identities import AttemptId
from services.scheduler.use_cases.attempts.ports import ContainerRuntime
from services.scheduler.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    """Delete an attempt's container from this node, if it is here and its end is recorded.

    Until then its folder is the only place that knows how it ended and what it left. From then on
    nobody acts on it any more, so this asks for no lease: waiting for one would lose the event that
    arrives while a new runner waits for its predecessor's to run out.
    """

    unit_of_work: UnitOfWork
    runtime: ContainerRuntime

    async def __call__(self, attempt_id: AttemptId) -> bool:
        """Return whether it was deleted."""
        name = container_name(attempt_id)
        container = await self.runtime.inspect(name)
        if container.phase in {ContainerPhase.ABSENT, ContainerPhase.RUNNING}:
            return False
        if await self._is_open(attempt_id):
            return False
        await self.runtime.remove(name)
        return True

    async def _is_open(self, attempt_id: AttemptId) -> bool:
        """Return whether its end is still to be recorded; one that nobody knows is over."""
        async with self.unit_of_work.system(because="a node holds any tenant's containers") as tx:
            ends = await tx.attempts.ends([attempt_id])
        return attempt_id in ends and ends[attempt_id] is None
