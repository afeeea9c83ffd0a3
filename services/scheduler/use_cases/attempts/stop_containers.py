"""Stop all that runs on a node which nobody can speak for any more."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from math import ceil

from services.chassis.errors import ModelyardError
from services.scheduler.domain.attempts.runtime import ContainerPhase
from services.scheduler.use_cases.attempts.ports import ContainerRuntime


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

        One that can't be stopped holds up none of the others; its error is raised at the end.
        """
        containers = await self.runtime.list({})
        running = [each.name for each in containers if each.phase is ContainerPhase.RUNNING]
        grace = self.grace / max(1, ceil(len(running) / self.together_max))
        turn = asyncio.Semaphore(self.together_max)

        failures: list[Exception] = []

        async def stop(name: str) -> None:
            async with turn:
                try:
                    await self.runtime.stop(name, grace=grace)
                except ModelyardError as error:
                    failures.append(error)

        async with asyncio.TaskGroup() as tasks:
            for name in running:
                tasks.create_task(stop(name))
        if failures:
            raise failures[0]
        return len(running)
