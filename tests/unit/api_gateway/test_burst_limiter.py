"""The counts behind slowapi."""

from datetime import timedelta

from services.api_gateway.adapters.burst_limiter import BurstCounts, BurstLimiter
from tests.support.clock import MovedClock


def test_slowapi_counts_with_them() -> None:
    assert isinstance(BurstLimiter()._storage, BurstCounts)


def test_hits_count_until_their_window_ends_whenever_they_come() -> None:
    clock = MovedClock()
    counts = BurstCounts(clock=clock)
    assert [counts.incr("route", 60) for _ in range(2)] == [1, 2]
    clock.ahead += timedelta(seconds=50)
    assert counts.incr("route", 60, amount=2) == 4
    assert counts.incr("other", 60) == 1
    assert 0 < counts.get_expiry("route") - clock.now().timestamp() <= 10
    clock.ahead += timedelta(seconds=10)
    assert counts.get("route") == 0
    assert counts.get("other") == 1
    assert counts.incr("route", 60) == 1


def test_the_count_that_began_first_is_forgotten_when_there_are_too_many() -> None:
    counts = BurstCounts(counts_max=2)
    for key in ("first", "second", "first", "third"):
        counts.incr(key, 60)
    assert [counts.get(key) for key in ("first", "second", "third")] == [0, 1, 1]
