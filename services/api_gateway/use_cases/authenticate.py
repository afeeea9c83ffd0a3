"""Turn a credential into a principal.

Owns: a small cache, so that a hot key costs no database call. Late actor: a cached key that was
revoked meanwhile; refused by the cache's age bound `cached_for`, so a revocation acts on every
replica within 2 s (design: "a revoked key acts within 2 s everywhere").
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import timedelta

from services.api_gateway.domain.api_key import ApiKey, PresentedKey
from services.api_gateway.use_cases.ports import Directory
from services.chassis.clock import Clock
from services.chassis.errors import Unauthenticated
from services.chassis.tenancy import Principal


@dataclass(slots=True)
class Authenticate:
    """Check an `Authorization` header; every refusal reads the same."""

    directory: Directory
    clock: Clock
    cached_for: timedelta = timedelta(seconds=1)
    cached_count_max: int = 10_000
    _cache: OrderedDict[str, tuple[float, ApiKey | None]] = field(default_factory=OrderedDict)

    async def __call__(self, authorization: str | None) -> Principal:
        """Return whom the call is by; raises Unauthenticated."""
        scheme, _, credential = (authorization or "").partition(" ")
        presented = PresentedKey.parse(credential.strip()) if scheme.lower() == "bearer" else None
        if presented is None:
            raise Unauthenticated
        key = await self._find(presented.id)
        if key is None or not key.admits(presented.secret, at=self.clock.now()):
            raise Unauthenticated
        return key.principal

    async def _find(self, key_id: str) -> ApiKey | None:
        now = self.clock.monotonic()
        cached = self._cache.get(key_id)
        if cached is not None and now - cached[0] < self.cached_for.total_seconds():
            return cached[1]
        key = await self.directory.find_key(key_id)
        # Unknown ids are remembered too, else guessing costs us a query a try; the bound holds
        # both.
        self._cache[key_id] = (now, key)
        self._cache.move_to_end(key_id)
        while len(self._cache) > self.cached_count_max:
            self._cache.popitem(last=False)
        return key
