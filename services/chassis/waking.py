"""Waiting for something to do.

Owns: the wait of a loop that commits or events wake: it looks at once when woken, and by itself
after `interval_max`, so that a wake-up that was lost, or belongs to another process, costs little.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

from services.chassis.waiting import is_set_within


class Waking:
    """A loop's alarm; `wake` may be called from any callback of the loop's thread."""

    def __init__(self, interval_max: timedelta) -> None:
        self._interval_max_s = interval_max.total_seconds()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Let the loop look now; cheap, and once for many calls."""
        self._woken.set()

    async def wait(self) -> None:
        """Return when woken since the last return, or after the interval."""
        await is_set_within(self._woken, self._interval_max_s)
        self._woken.clear()

    async def repeat(
        self, turn: Callable[[], Awaitable[bool | None]], stopping: asyncio.Event
    ) -> None:
        """Take a turn whenever woken until `stopping` is set, which wakes the loop, too.

        One that returns true is followed by another at once.
        """
        async with self._also_when(stopping):
            while not stopping.is_set():
                if not await turn():
                    await self.wait()

    @contextlib.asynccontextmanager
    async def _also_when(self, stopping: asyncio.Event) -> AsyncIterator[None]:
        async def wake_when_stopping() -> None:
            await stopping.wait()
            self.wake()

        async with asyncio.TaskGroup() as tasks:
            waker = tasks.create_task(wake_when_stopping())
            yield
            waker.cancel()
