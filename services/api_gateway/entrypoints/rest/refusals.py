"""How often a credential may be refused: by the address that it comes from, and by its key's id.

Both are counted for ids that exist and for others alike, else the limit would tell them apart. The
right secret passes however many wrong ones came before: a limit that also stopped the holder would
let anybody who knows a key's id, which is no secret, put it out of use (ADR-0009).
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Final

from starlette.types import Scope

from services.api_gateway.domain.api_key import PresentedKey
from services.api_gateway.domain.rate_limit import RateDecision
from services.api_gateway.entrypoints.rest.dependencies import EdgePolicies
from services.api_gateway.use_cases.ports import RateLimiter
from services.chassis.clock import Clock
from services.chassis.errors import RateLimited

_SHUT_FOR: Final = timedelta(seconds=1)
_SHUT_COUNT_MAX: Final = 10_000
_NETWORK_BITS: Final = 64
"""Of an IPv6 address: whoever has one has all of its network's."""


@dataclass(slots=True)
class Refusals:
    """Counts refused credentials, and shuts a source out for a moment once it is over its limit."""

    limiter: RateLimiter
    policies: EdgePolicies
    clock: Clock
    _shut_until: OrderedDict[str, float] = field(default_factory=OrderedDict)

    def check(self, source: str, *, is_known: Callable[[], bool]) -> None:
        """Raise RateLimited for a source that was over its limit a moment ago.

        Its credentials are looked up no more, else guessing ids would cost a query each; but a key
        that is known anyway passes (`is_known`): it may be a neighbour's behind the same address.
        """
        until = self._shut_until.get(source)
        if until is not None and self.clock.monotonic() < until and not is_known():
            raise RateLimited(self.policies.source.name, retry_after=_SHUT_FOR)

    async def count(self, source: str, authorization: str | None) -> None:
        """Count one refused credential; raises RateLimited over a limit."""
        decision = await self.limiter.hit(self.policies.source, source)
        if not decision.is_allowed:
            self._shut(source)
        refuse_excess(decision)
        presented = PresentedKey.parse(authorization)
        if presented is not None:
            refuse_excess(await self.limiter.hit(self.policies.key, presented.id))

    def _shut(self, source: str) -> None:
        self._shut_until[source] = self.clock.monotonic() + _SHUT_FOR.total_seconds()
        self._shut_until.move_to_end(source)
        while len(self._shut_until) > _SHUT_COUNT_MAX:
            self._shut_until.popitem(last=False)


def source_of(scope: Scope) -> str:
    """Return the network address that a connection's refusals are counted by."""
    client = scope.get("client")
    return _source(str(client[0])) if client else "unknown"


@lru_cache(maxsize=10_000)
def _source(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), _NETWORK_BITS), strict=False))


def refuse_excess(decision: RateDecision) -> None:
    """Raise RateLimited unless the request is within its limit."""
    if not decision.is_allowed:
        raise RateLimited(decision.policy.name, retry_after=decision.reset_after)
