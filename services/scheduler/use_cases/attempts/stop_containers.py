"""Stop all that runs on a node which nobody can speak for any more."""

from dataclasses import dataclass
from datetime import timedelta

from services.scheduler.domain.attempts.runtime import ContainerPhase
from services.scheduler.use_cases.attempts.ports import ContainerRuntime
from services.scheduler.use_cases.attempts.side_by_side import grace_of_each, side_by_side


@dataclass(frozen=True, slots=True)
class StopContainers:
    """Stop every container of this node that runs; asks nobody but the runtime.

    What was created and not started is left alone: nobody starts it without the node's lease.
    """

    runtime: ContainerRuntime
    grace: timedelta
    """From SIGTERM to SIGKILL, for all together: more than `together_max` have less each."""
    together_max: int
    """Containers that are stopped at a time."""

    async def __call__(self) -> int:
        """Return how many were stopped.

        One that can't be stopped holds up none of the others; their errors are raised at the end,
        as an ExceptionGroup.
        """
        containers = await self.runtime.list({})
        running = [each.name for each in containers if each.phase is ContainerPhase.RUNNING]
        grace = grace_of_each(self.grace, count=len(running), together_max=self.together_max)

        async def stop(name: str) -> None:
            await self.runtime.stop(name, grace=grace)

        _, failures = await side_by_side(stop, running, together_max=self.together_max)
        if failures:
            raise ExceptionGroup("containers not stopped", failures)
        return len(running)
