"""Counting requests in a real Redis, and without one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from typing_extensions import override

from services.api_gateway.adapters.rate_limiter import (
    UNTOLD_AGE_MAX,
    RedisRateLimiter,
    redis_client,
    redis_rate_limiter,
)
from services.api_gateway.domain.rate_limit import RatePolicy
from services.chassis.clock import Clock, SystemClock
from tests.support.clock import MovedClock

POLICY = RatePolicy("tenant", 10, timedelta(hours=1))
WIDE = RatePolicy("tenant", 1000, timedelta(hours=1000))
PATIENCE = timedelta(seconds=10)
"""A count is exact as long as Redis answers in time, which no test machine promises."""


class StillClock(MovedClock):
    """Time that passes only as the test says."""

    @override
    def monotonic(self) -> float:
        return self.ahead.total_seconds()


@asynccontextmanager
async def a_replica(url: str, clock: Clock | None = None) -> AsyncIterator[RedisRateLimiter]:
    client = redis_client(url, timeout=PATIENCE)
    try:
        yield redis_rate_limiter(client, clock or SystemClock())
    finally:
        await client.aclose()


async def counted(url: str, key: str) -> int:
    """Return how many requests Redis knows of."""
    client = redis_client(url, timeout=PATIENCE)
    try:
        return int(await client.hget(f"modelyard:rate:1:tenant:{key}", "current") or 0)
    finally:
        await client.aclose()


async def test_two_replicas_share_one_limit(redis_url: str) -> None:
    async with a_replica(redis_url) as first, a_replica(redis_url) as second:
        decisions = []
        for _ in range(6):
            decisions.append(await first.hit(POLICY, "acme"))
            decisions.append(await second.hit(POLICY, "acme"))
    assert [decision.is_allowed for decision in decisions] == [True] * 10 + [False] * 2
    assert [decision.remaining for decision in decisions] == [*range(9, -1, -1), 0, 0]
    allowed, refused = decisions[9], decisions[10]
    assert timedelta(0) < allowed.reset_after <= POLICY.window
    # A tenth of the next window has to go by before one of ten requests is out of view.
    longer = refused.reset_after - allowed.reset_after
    assert abs(longer - POLICY.window / 10) < timedelta(seconds=10)


async def test_a_burst_waits_for_its_turn_and_is_counted_in_redis(redis_url: str) -> None:
    async with a_replica(redis_url) as replica:
        decisions = await asyncio.gather(*(replica.hit(POLICY, "burst") for _ in range(100)))
        assert sum(decision.is_allowed for decision in decisions) == 10
        assert replica.breaker.state == "closed"


async def test_tenants_do_not_share_a_limit(redis_url: str) -> None:
    async with a_replica(redis_url) as replica:
        for _ in range(10):
            await replica.hit(POLICY, "acme")
        assert (await replica.hit(POLICY, "other")).is_allowed


async def test_a_refused_request_does_not_count(redis_url: str) -> None:
    short = RatePolicy("short", 1, timedelta(seconds=1))
    async with a_replica(redis_url) as replica:
        while not (await replica.hit(short, "acme")).is_allowed:
            pass  # the window runs on: refusals must not push it further away


async def test_while_much_is_left_a_replica_admits_some_by_itself_and_tells(redis_url: str) -> None:
    clock = StillClock()
    async with a_replica(redis_url, clock) as replica:
        first = await replica.hit(WIDE, "some")
        alone = [await replica.hit(WIDE, "some") for _ in range(9)]
        assert await counted(redis_url, "some") == 1
        next_asks = await replica.hit(WIDE, "some")
        assert await counted(redis_url, "some") == 11
    decisions = [first, *alone, next_asks]
    assert [decision.remaining for decision in decisions] == list(range(999, 988, -1))
    assert all(timedelta(0) < decision.reset_after <= WIDE.window for decision in decisions)


async def test_redis_hears_of_all_after_a_moment(redis_url: str) -> None:
    clock = StillClock()
    async with a_replica(redis_url, clock) as replica:
        for _ in range(3):
            await replica.hit(WIDE, "moment")
        clock.ahead += UNTOLD_AGE_MAX
        assert (await replica.hit(WIDE, "moment")).remaining == 996
    assert await counted(redis_url, "moment") == 4


async def test_what_left_the_window_is_not_told(redis_url: str) -> None:
    clock = StillClock()
    async with a_replica(redis_url, clock) as replica:
        for _ in range(3):
            await replica.hit(WIDE, "gone")
        clock.ahead += WIDE.window
        await replica.hit(WIDE, "gone")
    assert await counted(redis_url, "gone") == 2  # the test's hour is none for Redis


async def test_a_limit_is_exceeded_by_a_hundredth_a_replica_at_most(redis_url: str) -> None:
    clock = StillClock()
    async with a_replica(redis_url, clock) as first, a_replica(redis_url, clock) as second:
        # The second asks early, and comes with all that it may admit when the first has the rest.
        admitted = [await second.hit(WIDE, "most")]
        admitted += [await first.hit(WIDE, "most") for _ in range(1100)]
        admitted += [await second.hit(WIDE, "most") for _ in range(100)]
        assert sum(decision.is_allowed for decision in admitted) == 1000 + 9
        # What went over is counted.
        assert await counted(redis_url, "most") == 1000 + 9


async def test_requests_that_come_together_are_each_counted(redis_url: str) -> None:
    policy = RatePolicy("tenant", 200, timedelta(hours=1000))
    async with a_replica(redis_url, StillClock()) as replica:
        decisions = [
            decision
            for _ in range(60)
            for decision in await asyncio.gather(*(replica.hit(policy, "both") for _ in range(4)))
        ]
        # One more for the request that passed unasked while the last but one was counted.
        assert 200 <= sum(decision.is_allowed for decision in decisions) <= 201
        assert not decisions[-1].is_allowed


async def test_without_redis_each_replica_counts_for_itself() -> None:
    async with (
        a_replica("redis://127.0.0.1:1/0") as first,
        a_replica("redis://127.0.0.1:1/0") as second,
    ):
        allowed = [(await first.hit(POLICY, "acme")).is_allowed for _ in range(11)]
        assert allowed == [True] * 10 + [False]
        assert (await second.hit(POLICY, "acme")).is_allowed
        assert first.breaker.state == "open"
