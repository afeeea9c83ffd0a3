"""How often a caller may call.

Owns: a policy, a decision, and the two header fields that tell a client about them
(draft-ietf-httpapi-ratelimit-headers-11). Counting is an adapter's.
"""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class RatePolicy:
    """At most `requests_max` in any `window`."""

    name: str
    requests_max: int
    window: timedelta

    @property
    def header(self) -> str:
        """Value of RateLimit-Policy."""
        return f'"{self.name}";q={self.requests_max};w={int(self.window.total_seconds())}'


@dataclass(frozen=True, slots=True)
class RateDecision:
    """Whether one request may pass, what is left, and how long until there is more."""

    policy: RatePolicy
    is_allowed: bool
    remaining: int
    reset_after: timedelta

    @property
    def header(self) -> str:
        """Value of RateLimit."""
        return f'"{self.policy.name}";r={self.remaining};t={self.reset_after_s}'

    @property
    def reset_after_s(self) -> int:
        """Whole seconds, at least 1: whoever is refused, and alone, passes after them."""
        return max(1, int(self.reset_after.total_seconds() + 0.999))
