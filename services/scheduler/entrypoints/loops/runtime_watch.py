"""Whether the node's container runtime answers.

Owns: the one place that knows. The runner's loop asks again and again; readiness and metrics tell
what it found.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from loguru import logger

from services.chassis.errors import ModelyardError, Unavailable
from services.scheduler.telemetry import RUNTIME_UP
from services.scheduler.use_cases.attempts.ports import ContainerRuntime


@dataclass(slots=True)
class RuntimeWatch:
    """What the last ping found; up until one fails."""

    runtime: ContainerRuntime
    ping_timeout: timedelta
    """A runtime that takes longer to answer is down."""
    is_up: bool = True

    async def look(self) -> bool:
        """Ping once; return whether the runtime is back."""
        was_up, failure = self.is_up, await self._ping()
        self.is_up = failure is None
        RUNTIME_UP.labels(self._name).set(self.is_up)
        if failure is not None and was_up:
            logger.warning("container runtime down", runtime=self._name, error=str(failure))
        if failure is None and not was_up:
            logger.info("container runtime back", runtime=self._name)
        return self.is_up and not was_up

    async def check(self) -> None:
        """Raise Unavailable while it is down."""
        if not self.is_up:
            raise Unavailable(f"container runtime {self._name}")

    async def _ping(self) -> ModelyardError | TimeoutError | None:
        try:
            async with asyncio.timeout(self.ping_timeout.total_seconds()):
                await self.runtime.ping()
        except (ModelyardError, TimeoutError) as error:
            return error
        return None

    @property
    def _name(self) -> str:
        return self.runtime.capabilities.runtime
