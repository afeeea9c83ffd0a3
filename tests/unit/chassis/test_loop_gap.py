"""How late the event loop was, as the metric shows it."""

import asyncio
import time

from prometheus_client import REGISTRY

from services.chassis.telemetry.loop_gap import WINDOW_S, RecentGaps, watch_event_loop
from tests.support.eventually import eventually, until

BLOCKED_S = 0.3


def shown_s() -> float:
    return REGISTRY.get_sample_value("modelyard_event_loop_gap_max_seconds") or 0.0


async def test_a_blocked_loop_shows_in_the_metric() -> None:
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch_event_loop(stopping))
        await asyncio.sleep(0)
        ends_at_s = time.monotonic() + BLOCKED_S
        until(lambda: time.monotonic() >= ends_at_s, what="the loop is blocked")

        async def shows() -> bool:
            return shown_s() >= BLOCKED_S / 2

        await eventually(shows, what="the metric shows the gap")
        stopping.set()


def test_the_longest_gap_is_forgotten_after_the_window() -> None:
    gaps = RecentGaps()
    gaps.record(100.0, 0.2)
    gaps.record(100.5, 3.0)
    gaps.record(100.9, 0.1)
    gaps.record(104.0, 0.5)

    assert gaps.longest_s(100.9) == 3.0
    assert gaps.longest_s(99.0 + WINDOW_S) == 3.0
    assert gaps.longest_s(100.0 + WINDOW_S) == 0.5
    assert gaps.longest_s(104.0 + WINDOW_S) == 0.0


def test_gaps_are_kept_for_the_window_only() -> None:
    gaps = RecentGaps()
    for second in range(10 * WINDOW_S):
        gaps.record(float(second), 1.0 / (second + 1))

    assert gaps.longest_s(10.0 * WINDOW_S - 1) == 1.0 / (9 * WINDOW_S + 1)
