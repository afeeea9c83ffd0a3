"""Tidy a node: what nobody waits for any more, and what runs though nobody knows of it."""

from dataclasses import dataclass
from datetime import timedelta

from services.chassis.clock import Clock
from services.chassis.errors import ModelyardError
from services.scheduler.domain.attempts.attempt import attempt_of_container
from services.scheduler.domain.attempts.runtime import ContainerPhase, ContainerStatus
from services.scheduler.use_cases.attempts.ports import ContainerRuntime, NodeLease
from services.scheduler.use_cases.attempts.remove_container import RemoveContainer


@dataclass(frozen=True, slots=True)
class CleanUpContainers:
    """Delete containers whose logs nobody reported complete in time, and stop strays.

    A stray runs although its attempt is over: it would hold what is booked for others.
    """

    runtime: ContainerRuntime
    remove: RemoveContainer
    node_lease: NodeLease
    clock: Clock
    kept_after_end: timedelta
    stray_grace: timedelta
    containers_per_pass_max: int

    async def __call__(self) -> int:
        """Run one pass; return how many containers were deleted or stopped.

        One that can't be dealt with holds up none of the others; its error is raised at the end.
        """
        count, failure = 0, None
        for container in (await self.runtime.list({}))[: self.containers_per_pass_max]:
            try:
                count += await self._clean_up(container)
            except ModelyardError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return count

    async def _clean_up(self, container: ContainerStatus) -> bool:
        attempt_id = attempt_of_container(container.name)
        ended_at = await self.remove.ended_at(attempt_id)
        if self.node_lease.held is None or ended_at is None:
            return False
        if container.phase is ContainerPhase.RUNNING:
            await self.runtime.stop(container.name, grace=self.stray_grace)
            return True
        if ended_at < self.clock.now() - self.kept_after_end:
            return await self.remove(attempt_id)
        return False
