"""Ending tenants whose grace is over, and telling all tenants again.

Owns: when that happens. All are told when this process begins to hold the lease `tenants`, and
every interval; keys and members of purged tenants are looked for then, too, and after each end. A
failed turn is told and tried again at the next look.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from loguru import logger

from services.api_gateway.use_cases.manage_tenants import RepublishTenants
from services.api_gateway.use_cases.purge_tenants import PurgeTenants
from services.chassis.db.lease import HeldLease, LeaseKeeper, Recurrence
from services.chassis.errors import ModelyardError
from services.chassis.waiting import is_set_within

_LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class TenantsLoop:
    """Purges tenants and publishes all of them while this process holds the lease."""

    purge: PurgeTenants
    republish: RepublishTenants
    recurrence: Recurrence
    lease: LeaseKeeper

    async def run(self, stopping: asyncio.Event) -> None:
        """Work while this process holds the lease, until `stopping` is set."""
        while not stopping.is_set():
            await self.turn()
            await is_set_within(stopping, _LOOK_S)

    async def turn(self) -> None:
        """Purge whose time has come, and publish all if that is due."""
        held = self.lease.held
        if held is None:
            return
        is_due = self.recurrence.is_due(held)
        is_purged = True
        try:
            if await self._purge(held) or is_due:
                await self.purge.delete_rest(held)
        except ModelyardError as error:
            is_purged = False
            logger.warning("tenants not purged", error=error.message)
        if is_due and await self._publish(held) and is_purged:
            self.recurrence.done(held)

    async def _purge(self, held: HeldLease) -> int:
        count = await self.purge(held)
        if count:
            logger.info("tenants purged", tenants_count=count)
        return count

    async def _publish(self, held: HeldLease) -> bool:
        try:
            count = await self.republish(held)
        except ModelyardError as error:
            logger.warning("tenants not published again", error=error.message)
            return False
        logger.info("tenants published again", tenants_count=count)
        return True
