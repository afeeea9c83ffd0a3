"""Absolute ends of waiting.

Owns: turning "how long" into "until when", so that several steps share one bound.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Deadline:
    """An instant of the monotonic clock, in seconds."""

    at_s: float
    monotonic: Callable[[], float] = time.monotonic

    @staticmethod
    def after(wait: timedelta, monotonic: Callable[[], float] = time.monotonic) -> "Deadline":
        """Return the deadline that is `wait` from now."""
        return Deadline(monotonic() + wait.total_seconds(), monotonic)

    def remaining_s(self) -> float:
        """Return seconds until it, 0 once it has passed."""
        return max(0.0, self.at_s - self.monotonic())

    def sooner(self, other: "Deadline | None") -> "Deadline":
        """Return the nearer of the two."""
        return self if other is None or self.at_s <= other.at_s else other
