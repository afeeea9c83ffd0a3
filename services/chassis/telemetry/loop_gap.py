"""How late the process's event loop was: what every request and every loop waited at worst.

Owns: measuring it, by asking to be called every 50 ms and looking how late that is. Whatever keeps
the loop from turning shows up here: a blocking call, too much at once, a frozen process.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from services.chassis.telemetry.metrics import gauge

WINDOW_S: Final = 15
"""No longer than between two scrapes, or one gap would show up in many."""
_INTERVAL_S: Final = 0.05

EVENT_LOOP_GAP: Final = gauge(
    "modelyard_event_loop_gap_max",
    unit="seconds",
    help=f"Longest that the event loop did not turn, in the last {WINDOW_S} seconds.",
)


class RecentGaps:
    """The longest gap of each of the last `WINDOW_S` seconds."""

    def __init__(self) -> None:
        self._longest: deque[tuple[int, float]] = deque(maxlen=WINDOW_S)

    def record(self, now_s: float, gap_s: float) -> None:
        """Count a gap that is over now."""
        second = int(now_s)
        if self._longest and self._longest[-1][0] == second:
            gap_s = max(gap_s, self._longest.pop()[1])
        self._longest.append((second, gap_s))

    def longest_s(self, now_s: float) -> float:
        """Return the longest one of the window, 0 when it has none."""
        oldest = int(now_s) - WINDOW_S + 1
        return max((gap_s for second, gap_s in self._longest if second >= oldest), default=0.0)


async def watch_event_loop(
    stopping: asyncio.Event, *, monotonic: Callable[[], float] = time.monotonic
) -> None:
    """Measure until the process leaves."""
    gaps, loop = RecentGaps(), asyncio.get_running_loop()
    EVENT_LOOP_GAP.set_function(lambda: gaps.longest_s(monotonic()))

    # A callback and no task that sleeps: at twenty times a second that is most of what an idle
    # service does.
    next_look: asyncio.TimerHandle

    def look(due_at_s: float) -> None:
        nonlocal next_look
        now_s = monotonic()
        gaps.record(now_s, max(0.0, now_s - due_at_s))
        next_look = loop.call_later(_INTERVAL_S, look, now_s + _INTERVAL_S)

    next_look = loop.call_later(_INTERVAL_S, look, monotonic() + _INTERVAL_S)
    try:
        await stopping.wait()
    finally:
        next_look.cancel()
