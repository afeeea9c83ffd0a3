"""Counting requests in a real Redis, and without one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from services.api_gateway.adapters.rate_limiter import (
    RedisRateLimiter,
    redis_client,
    redis_rate_limiter,
)
from services.api_gateway.domain.rate_limit import RatePolicy
from services.chassis.clock import SystemClock

POLICY = RatePolicy("tenant", 10, timedelta(hours=1))


@asynccontextmanager
async def a_replica(url: str) -> AsyncIterator[RedisRateLimiter]:
    client = redis_client(url)
    try:
        yield redis_rate_limiter(client, SystemClock())
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


async def test_without_redis_each_replica_counts_for_itself() -> None:
    async with (
        a_replica("redis://127.0.0.1:1/0") as first,
        a_replica("redis://127.0.0.1:1/0") as second,
    ):
        allowed = [(await first.hit(POLICY, "acme")).is_allowed for _ in range(11)]
        assert allowed == [True] * 10 + [False]
        assert (await second.hit(POLICY, "acme")).is_allowed
        assert first.breaker.state == "open"
