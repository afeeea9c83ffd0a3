"""What an owner does about tenants that are no more (ADR-0017).

Owns: hearing of them, and when to look for what they have left: when one is heard of, again at once
while there was something, and each `interval_max`, since something may have come late; and that
what can't be deleted is passed over. Leaves to each service what it deletes. An event's envelope
says who is purged; no service's data is read.
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


@dataclass(slots=True)
class Round:
    """How far a purge has come that deletes a bounded number of things a pass, in a fixed order.

    What can't be deleted stays in front, and would be all that a pass ever sees: the next one goes
    on behind it, and begins anew after the last. What changes its place meanwhile may be left out
    until then.
    """

    passed_over: int = 0
    """Things that could not be deleted since this round began: where the next pass goes on."""

    def passed(self, *, found: int, failed: int, limit: int) -> None:
        """Note what became of those that a pass has found, which may be `limit` at most."""
        self.passed_over = self.passed_over + failed if found == limit else 0


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
        except Exception as error:  # noqa: BLE001 a bug that one pass meets ends no process
            logger.opt(exception=error).error(f"purged tenants' {self.what} not deleted")
            return False
        if count:
            logger.info(f"purged tenants' {self.what} deleted", count=count)
        return count > 0
