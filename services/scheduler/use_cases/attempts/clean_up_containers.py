"""Tidy a node: what nobody waits for any more, and what runs though nobody knows of it."""

from dataclasses import dataclass
from datetime import timedelta

from services.chassis.clock import Clock
from services.scheduler.domain.attempts.attempt import attempt_of_container
from services.scheduler.domain.attempts.runtime import ContainerPhase
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
        """Run one pass; return how many containers were deleted or stopped."""
        count = 0
        for container in (await self.runtime.list({}))[: self.containers_per_pass_max]:
            attempt_id = attempt_of_container(container.name)
            ended_at = await self.remove.ended_at(attempt_id)
            if self.node_lease.held is None:
                break
            if ended_at is None:
                continue
            if container.phase is ContainerPhase.RUNNING:
                await self.runtime.stop(container.name, grace=self.stray_grace)
                count += 1
            elif ended_at < self.clock.now() - self.kept_after_end:
                count += await self.remove(attempt_id)
        return count
