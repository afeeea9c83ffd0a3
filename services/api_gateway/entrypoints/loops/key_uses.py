"""Writing when keys were used, every `interval`, and once more on the way out.

A failed turn is told, and what it would have written is written by a later one.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from loguru import logger

from services.api_gateway.use_cases.key_uses import WriteKeyUses
from services.chassis.errors import ModelyardError
from services.chassis.waiting import is_set_within


@dataclass(frozen=True, slots=True)
class KeyUsesLoop:
    """Writes what authentication has noted."""

    write: WriteKeyUses
    interval: timedelta

    async def run(self, stopping: asyncio.Event) -> None:
        """Write until `stopping` is set; requests that are at work by then are noted before."""
        while not await is_set_within(stopping, self.interval.total_seconds()):
            await self.turn()
        await self.turn()

    async def turn(self) -> None:
        """Write all that was noted."""
        try:
            await self.write()
        except ModelyardError as error:
            logger.warning("uses of keys not written", error=error.message)
        missed_count = self.write.uses.take_missed()
        if missed_count:
            logger.warning("uses of keys not noted: too many keys", missed_count=missed_count)
