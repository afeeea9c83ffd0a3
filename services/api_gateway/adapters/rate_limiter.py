"""Counts requests in Redis; in this process alone while Redis does not answer.

A sliding window counter: the running window's count plus the part of the last window that is still
in view. One script, so one trip and no race between replicas. While much is left, a replica admits
a few requests by itself and tells Redis with the next one that asks (ADR-0019). Redis gets 100 ms;
behind a breaker a dead one costs nothing, and each replica then counts for itself, which may admit
up to `replicas` times the limit for as long as the outage lasts (bounded fail-open).
"""

from collections import OrderedDict
from dataclasses import dataclass, field
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
UNTOLD_SHARE: Final = 100
"""A replica admits by itself one of so many requests that were left."""
UNTOLD_AGE_MAX: Final = timedelta(milliseconds=250)
"""A request that comes so long after the last that asked Redis asks it, too."""
_ALLOWANCE_COUNT_MAX: Final = 10_000

# KEYS[1] counter; ARGV: most requests, window in milliseconds, requests that a replica has admitted
# by itself. By the clock of Redis: replicas' clocks differ. Answers {allowed, remaining,
# milliseconds}: to the next window, or when refused until one more is allowed, by when enough of
# this window or of the next has gone by.
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
current = current + tonumber(ARGV[3])
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


@dataclass(slots=True)
class _Allowance:
    """What a replica may admit by itself, as Redis counted last."""

    count: int
    remaining: int
    resets_at_s: float
    asked_at_s: float
    untold: int = 0

    def covers(self, at_s: float) -> bool:
        """Tell whether one more request may pass unasked."""
        return self.count > 0 and at_s - self.asked_at_s < UNTOLD_AGE_MAX.total_seconds()

    def admit(self, policy: RatePolicy, *, at_s: float) -> RateDecision:
        """Admit one request."""
        self.count -= 1
        self.remaining -= 1
        self.untold += 1
        reset_after = timedelta(seconds=max(0.0, self.resets_at_s - at_s))
        return RateDecision(policy, True, self.remaining, reset_after)

    def told(self, *, at_s: float, window: timedelta) -> int:
        """Return what Redis lacks, once; requests of long ago are in no window any more.

        Others go on with the count meanwhile, else all would ask at once.
        """
        untold, self.untold = self.untold, 0
        is_in_view = at_s - self.asked_at_s < window.total_seconds()
        self.asked_at_s = at_s
        return untold if is_in_view else 0


@dataclass(frozen=True, slots=True)
class RedisRateLimiter:
    """Counts over all replicas."""

    script: AsyncScript
    breaker: Breaker
    fallback: MemoryRateLimiter
    clock: Clock
    _allowances: OrderedDict[str, _Allowance] = field(default_factory=OrderedDict)

    async def hit(self, policy: RatePolicy, key: str) -> RateDecision:
        """Count one request: here while much is left, in Redis if it answers in time."""
        name = f"{policy.name}:{key}"
        allowance, now_s = self._allowances.get(name), self.clock.monotonic()
        if allowance is not None and allowance.covers(now_s):
            return allowance.admit(policy, at_s=now_s)
        # Not told again when this fails: Redis may have counted them all the same.
        untold = allowance.told(at_s=now_s, window=policy.window) if allowance else 0
        try:
            with self.breaker.calling():
                allowed, remaining, wait_ms = await self.script(
                    keys=[f"modelyard:rate:1:{name}"],
                    args=[policy.requests_max, int(policy.window.total_seconds() * 1000), untold],
                )
        except (RedisError, OSError, TimeoutError, Unavailable) as error:
            logger.debug("rate counted locally", reason=type(error).__name__)
            return await self.fallback.hit(policy, key)
        decision = RateDecision(
            policy=policy,
            is_allowed=bool(allowed),
            remaining=int(remaining),
            reset_after=timedelta(milliseconds=int(wait_ms)),
        )
        self._allow(name, decision, asked_at_s=now_s)
        return decision

    def _allow(self, name: str, decision: RateDecision, *, asked_at_s: float) -> None:
        """Keep what may pass unasked from now on; what passed meanwhile is still to be told."""
        before = self._allowances.pop(name, None)
        untold = before.untold if before else 0
        count = decision.remaining // UNTOLD_SHARE - untold
        if count <= 0 and untold == 0:
            return
        resets_at_s = asked_at_s + decision.reset_after.total_seconds()
        self._allowances[name] = _Allowance(
            count, decision.remaining - untold, resets_at_s, asked_at_s, untold
        )
        while len(self._allowances) > _ALLOWANCE_COUNT_MAX:
            self._allowances.popitem(last=False)


def memory_rate_limiter(clock: Clock) -> MemoryRateLimiter:
    """Return a limiter for one process."""
    return MemoryRateLimiter(SlidingWindowCounterRateLimiter(MemoryStorage()), clock)


def redis_client(url: str, *, timeout: timedelta = REDIS_TIMEOUT) -> redis.asyncio.Redis:
    """Return a client that fails fast: by default it would try for most of a minute.

    A request waits for a free connection as long as for an answer: the usual pool would fail at
    once, and a burst of requests would pass for an outage of Redis.
    """
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        timeout=timeout.total_seconds(),
        socket_timeout=timeout.total_seconds(),
        socket_connect_timeout=timeout.total_seconds(),
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
    return RedisRateLimiter(
        client.register_script(_HIT), breaker, memory_rate_limiter(clock), clock
    )
