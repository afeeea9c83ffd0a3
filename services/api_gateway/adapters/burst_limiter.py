"""Caps bursts of one tenant on one route in this process, by slowapi.

Owns: what slowapi does for each request that it need not. Its usual storage, of `limits`, starts a
thread whenever it is used and none has run for 10 ms, to look for counts that are over: at 800
requests a second 45 us of each. And it inspects the signature of the function that names the
caller: 15 us, unless that is said.
"""

import inspect
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from fastapi import Request
from limits.storage import Storage
from slowapi import Limiter
from typing_extensions import override

from services.chassis.clock import Clock, SystemClock
from services.chassis.tenancy import Principal

_SCHEME: Final = "modelyard-memory"
_COUNTS_MAX: Final = 100_000


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


class _TenantOf:
    """Tells slowapi whose a request is."""

    def __init__(self) -> None:
        self.__signature__ = inspect.signature(self.__call__)

    def __call__(self, request: Request) -> str:
        """Return the tenant that `admission` found."""
        principal = request.scope["modelyard.principal"]
        assert isinstance(principal, Principal)
        return principal.tenant


def burst_limiter() -> Limiter:
    """Return a limiter whose decorator counts a tenant's requests to a route, whatever the ids."""
    return Limiter(key_func=_TenantOf(), storage_uri=f"{_SCHEME}://", key_style="endpoint")
