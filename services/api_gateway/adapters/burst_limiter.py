"""Caps bursts of one tenant on one route in this process, by slowapi.

Owns: what slowapi does for each request that it need not. It would look for limits of other kinds
than a route declares, at the signature of the function that names the caller, and into the
request's state: 50 us of each; declared limits go to its counting at once instead. And its usual
storage, of `limits`, starts a thread whenever it is used and none has run for 10 ms, to look for
counts that are over: at 800 requests a second another 45 us.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request
from limits.storage import Storage
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded
from typing_extensions import override

from services.chassis.clock import Clock, SystemClock
from services.chassis.tenancy import Principal

_SCHEME: Final = "modelyard-memory"
_COUNTS_MAX: Final = 100_000

Route = Callable[..., Any]


@dataclass(slots=True)
class _Count:
    hits: int
    ends_at_s: float


class BurstCounts(Storage):
    """Counts hits by key until their window ends; beyond a bound the oldest count is forgotten.

    Used by one event loop alone.
    """

    STORAGE_SCHEME = [_SCHEME]  # noqa: RUF012 as the registry of `limits` reads it

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        *,
        clock: Clock | None = None,
        counts_max: int = _COUNTS_MAX,
    ) -> None:
        super().__init__(uri, wrap_exceptions)
        self._clock = clock or SystemClock()
        self._counts_max = counts_max
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    @property
    @override
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    @override
    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        count = self._running(key)
        if count is None:
            count = _Count(0, self._clock.monotonic() + expiry)
            self._counts[key] = count
            self._counts.move_to_end(key)
            while len(self._counts) > self._counts_max:
                self._counts.popitem(last=False)
        count.hits += amount
        return count.hits

    @override
    def get(self, key: str) -> int:
        count = self._running(key)
        return 0 if count is None else count.hits

    @override
    def get_expiry(self, key: str) -> float:
        count = self._running(key)
        left_s = 0.0 if count is None else count.ends_at_s - self._clock.monotonic()
        return self._clock.now().timestamp() + left_s

    @override
    def check(self) -> bool:
        return True

    @override
    def reset(self) -> int:
        forgotten = len(self._counts)
        self._counts.clear()
        return forgotten

    @override
    def clear(self, key: str) -> None:
        self._counts.pop(key, None)

    def _running(self, key: str) -> _Count | None:
        count = self._counts.get(key)
        return count if count is not None and self._clock.monotonic() < count.ends_at_s else None


class BurstLimiter(Limiter):
    """Its decorator `limit` counts a tenant's requests to a route, whatever the ids in its path."""

    def __init__(self) -> None:
        super().__init__(key_func=_tenant_of, storage_uri=f"{_SCHEME}://")

    @override
    def limit(self, *args: Any, **options: Any) -> Callable[[Route], Route]:
        declare = super().limit(*args, **options)

        def decorator(route: Route) -> Route:
            declare(route)
            name = f"{route.__module__}.{route.__name__}"
            declared = self._route_limits[name]

            @functools.wraps(route)
            async def counted(*args: Any, request: Request, **given: Any) -> Any:
                tenant = _tenant_of(request)
                for each in declared:
                    if not self.limiter.hit(each.limit, tenant, name):
                        raise RateLimitExceeded(each)
                return await route(*args, request=request, **given)

            return counted

        return decorator


def _tenant_of(request: Request) -> str:
    """Return the tenant that `admission` found."""
    principal = request.scope["modelyard.principal"]
    assert isinstance(principal, Principal)
    return principal.tenant
