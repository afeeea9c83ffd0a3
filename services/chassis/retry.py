"""Trying again, within bounds.

Owns: how often and how soon. Only for idempotent calls; asks the error whether a retry can help
(`retryable`); full jitter (https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter);
a budget keeps retries below a share of first tries, so that an outage is not multiplied.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from services.chassis.errors import ModelyardError
from services.chassis.rpc.deadline import Deadline

T = TypeVar("T")


def chance() -> float:
    """Return 0..1: for what must not happen everywhere at once."""
    return random.random()  # noqa: S311 nothing is kept secret by it


@dataclass(slots=True)
class RetryBudget:
    """Tokens for retries: a first try earns `earned`, a retry costs 1, at most `tokens_max`."""

    tokens_max: float = 10.0
    earned: float = 0.1
    tokens: float = 10.0

    def earn(self) -> None:
        """A first try was made."""
        self.tokens = min(self.tokens_max, self.tokens + self.earned)

    def spend(self) -> bool:
        """Take a token for a retry; False when there is none."""
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most `attempts_max` tries, with growing random pauses between them."""

    budget: RetryBudget
    attempts_max: int = 3
    backoff_min: timedelta = timedelta(milliseconds=50)
    backoff_max: timedelta = timedelta(seconds=2)
    uniform: Callable[[float, float], float] = random.uniform
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def run(self, once: Callable[[], Awaitable[T]], *, until: Deadline) -> T:
        """Return the first success; raises the last ModelyardError."""
        self.budget.earn()
        attempt = 1
        while True:
            try:
                return await once()
            except ModelyardError as error:
                pause_s = self._pause_s(attempt, error)
                is_last = attempt >= self.attempts_max or pause_s >= until.remaining_s()
                if not error.retryable or is_last or not self.budget.spend():
                    raise
            await self.sleep(pause_s)
            attempt += 1

    def _pause_s(self, attempt: int, error: ModelyardError) -> float:
        ceiling = min(
            self.backoff_max.total_seconds(),
            self.backoff_min.total_seconds() * 2 ** (attempt - 1),
        )
        told = error.retry_after.total_seconds() if error.retry_after else 0.0
        # On top of what was told: callers that were told the same would come back as one wave.
        return told + self.uniform(0.0, ceiling)
