"""A wake-up for any number of waiters."""

import asyncio


class Signal:
    """Wakes all who wait; take `next()` before looking at what changed, then wait for it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Return an event that the next `fire` sets."""
        return self._event

    def fire(self) -> None:
        """Wake all who wait."""
        self._event.set()
        self._event = asyncio.Event()
