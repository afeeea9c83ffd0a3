"""Ending tenants whose grace is over, and telling all tenants again.

Owns: when that happens. All are told when this process begins to hold the lease `tenants`, and
every interval; keys and members of purged tenants are looked for as often, and after each end. What
failed is told and tried again at the next look; neither makes the other happen again.
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

_LOOK_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class TenantsLoop:
    """Purges tenants and publishes all of them while this process holds the lease."""

    purge: PurgeTenants
    republish: RepublishTenants
    purging: Recurrence
    """Of looking for what purged tenants have left."""
    republication: Recurrence
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
        try:
            await self._purge(held)
        except ModelyardError as error:
            logger.warning("tenants not purged", error=error.message)
        try:
            await self._publish(held)
        except ModelyardError as error:
            logger.warning("tenants not published again", error=error.message)

    async def _purge(self, held: HeldLease) -> None:
        count = await self.purge(held)
        if count:
            logger.info("tenants purged", tenants_count=count)
            self.purging.bring_forward()
        if self.purging.is_due(held):
            await self.purge.delete_rest(held)
            self.purging.done(held)

    async def _publish(self, held: HeldLease) -> None:
        if self.republication.is_due(held):
            count = await self.republish(held)
            logger.info("tenants published again", tenants_count=count)
            self.republication.done(held)
