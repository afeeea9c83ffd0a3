"""Counts requests in Redis; in this process alone while Redis does not answer.

A sliding window counter: the running window's count plus the part of the last window that is still
in view. One script, so one trip and no race between replicas. Redis gets 100 ms; behind a breaker a
dead one costs nothing, and each replica then counts for itself, which may admit up to `replicas`
times the limit for as long as the outage lasts (bounded fail-open).
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import redis.asyncio
from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from loguru import logger
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from services.api_gateway.domain.rate_limit import RateDecision, RatePolicy
from services.chassis.breaker import Breaker
from services.chassis.clock import Clock
from services.chassis.errors import Unavailable

REDIS_TIMEOUT: Final = timedelta(milliseconds=100)

# KEYS[1] counter; ARGV: most requests, window in milliseconds. By the clock of Redis: replicas'
# clocks differ. Answers {allowed, remaining, milliseconds}: to the next window, or when refused
# until one more is allowed, by when enough of this window or of the next has gone by.
_HIT: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local most, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local index = math.floor(now / window)
local seen = redis.call('HMGET', KEYS[1], 'index', 'current', 'last')
local current, last = tonumber(seen[2] or 0), tonumber(seen[3] or 0)
local age = index - tonumber(seen[1] or index)
if age == 1 then last, current = current, 0 elseif age > 1 then last, current = 0, 0 end
local left = window - now % window
local used = current + last * left / window
local allowed = used + 1 <= most
if allowed then current, used = current + 1, used + 1 end
redis.call('HSET', KEYS[1], 'index', index, 'current', current, 'last', last)
redis.call('PEXPIRE', KEYS[1], 2 * window)
if allowed then return {1, math.floor(most - used), left} end
local wait = left + window * (1 - (most - 1) / math.max(1, current))
if current + 1 <= most then wait = left - (most - 1 - current) * window / last end
return {0, 0, math.ceil(math.max(1, wait))}
"""


@dataclass(frozen=True, slots=True)
class MemoryRateLimiter:
    """Counts in this process only."""

    strategy: SlidingWindowCounterRateLimiter
    clock: Clock

    async def hit(self, policy: RatePolicy, key: str) -> RateDecision:
        """Count one request."""
        item = RateLimitItemPerSecond(
            policy.requests_max, int(policy.window.total_seconds()), namespace=policy.name
        )
        is_allowed = await self.strategy.hit(item, key)
        stats = await self.strategy.get_window_stats(item, key)
        reset_in_s = max(0.0, stats.reset_time - self.clock.now().timestamp())
        return RateDecision(
            policy=policy,
            is_allowed=is_allowed,
            remaining=stats.remaining,
            reset_after=timedelta(seconds=reset_in_s),
        )


@dataclass(frozen=True, slots=True)
class RedisRateLimiter:
    """Counts over all replicas."""

    script: AsyncScript
    breaker: Breaker
    fallback: MemoryRateLimiter

    async def hit(self, policy: RatePolicy, key: str) -> RateDecision:
        """Count one request, in Redis if it answers in time."""
        try:
            async with self.breaker.calling():
                allowed, remaining, wait_ms = await self.script(
                    keys=[f"modelyard:rate:1:{policy.name}:{key}"],
                    args=[policy.requests_max, int(policy.window.total_seconds() * 1000)],
                )
        except (RedisError, OSError, TimeoutError, Unavailable) as error:
            logger.debug("rate counted locally", reason=type(error).__name__)
            return await self.fallback.hit(policy, key)
        return RateDecision(
            policy=policy,
            is_allowed=bool(allowed),
            remaining=int(remaining),
            reset_after=timedelta(milliseconds=int(wait_ms)),
        )


def memory_rate_limiter(clock: Clock) -> MemoryRateLimiter:
    """Return a limiter for one process."""
    return MemoryRateLimiter(SlidingWindowCounterRateLimiter(MemoryStorage()), clock)


def redis_client(url: str) -> redis.asyncio.Redis:
    """Return a client that fails fast: by default it would try for most of a minute.

    A request waits for a free connection as long as for an answer: the usual pool would fail at
    once, and a burst of requests would pass for an outage of Redis.
    """
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        timeout=REDIS_TIMEOUT.total_seconds(),
        socket_timeout=REDIS_TIMEOUT.total_seconds(),
        socket_connect_timeout=REDIS_TIMEOUT.total_seconds(),
        retry=Retry(NoBackoff(), 0),
        max_connections=16,
    )
    return redis.asyncio.Redis.from_pool(pool)


def redis_rate_limiter(client: redis.asyncio.Redis, clock: Clock) -> RedisRateLimiter:
    """Return a limiter over all replicas that share this Redis."""
    breaker = Breaker(
        "redis",
        failure_count_max=5,
        window=timedelta(seconds=10),
        reset_after=timedelta(seconds=1),
        counts=lambda error: isinstance(error, (RedisError, OSError, TimeoutError)),
    )
    return RedisRateLimiter(client.register_script(_HIT), breaker, memory_rate_limiter(clock))
