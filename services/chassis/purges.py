"""What an owner does about tenants that are no more (ADR-0017).

Owns: hearing of them, and when to look for what they have left: when one is heard of, again at once
while there was something, and each `interval_max`, since something may have come late. Leaves to
each service what it deletes. An event's envelope says who is purged; no service's data is read.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from loguru import logger

from services.chassis.errors import ModelyardError
from services.chassis.events.envelope import Event
from services.chassis.tenancy import PurgedTenants, TenantId
from services.chassis.waking import Waking

TOPIC: Final = "modelyard.tenant.v1"
_PURGED: Final = "modelyard.tenant.purged.v1"


@dataclass(frozen=True, slots=True)
class ApplyPurges:
    """Take over a tenant that is purged, and let the purge look at once.

    For a projection: every process reads the whole topic, so what was cut off is done again.
    """

    purged: PurgedTenants
    wake: Callable[[], None]

    def __call__(self, event: Event) -> None:
        """Apply an entry; those of other tenants are passed over."""
        if event.type == _PURGED:
            self.add(event.tenant)

    def add(self, tenant: TenantId) -> None:
        """Take over a tenant that is purged, whoever said so."""
        if self.purged.add(tenant):
            logger.info("tenant is purged", tenant=tenant)
            self.wake()


@dataclass(frozen=True, slots=True)
class PurgesLoop:
    """Deletes a bounded number of things a turn."""

    purge: Callable[[], Awaitable[int]]
    """Runs one pass and tells how many things it deleted; may raise ModelyardError."""
    waking: Waking
    what: str
    """What it deletes, for the log."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Look until `stopping` is set."""
        await self.waking.repeat(self.turn, stopping)

    async def turn(self) -> bool:
        """Look once; return whether the next look should follow at once."""
        try:
            count = await self.purge()
        except ModelyardError as error:
            logger.warning(f"purged tenants' {self.what} not deleted", error=error.message)
            return False
        if count:
            logger.info(f"purged tenants' {self.what} deleted", count=count)
        return count > 0
