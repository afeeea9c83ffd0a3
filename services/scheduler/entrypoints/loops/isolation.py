"""A node's last resort: stop what runs on it before somebody else may run it again.

Owns: when this node counts as cut off, by this process's monotonic clock. The lease table has not
answered for so long that soon the leader may give the node up, and what runs here would run twice
(ADR-0030). Which process of the node holds its lease does not matter: while anybody does, the table
answers all of them.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from loguru import logger

from services.chassis.db.lease import LeaseKeeper
from services.chassis.errors import ModelyardError
from services.chassis.waiting import is_set_within
from services.scheduler.use_cases.attempts.stop_containers import StopContainers

_INTERVAL_S: Final = 1.0
_TOLD_MAX: Final = 10
"""Of what one pass failed at."""


@dataclass(frozen=True, slots=True)
class IsolationLoop:
    """Stops the node's containers, again and again, for as long as it is cut off."""

    stop_containers: StopContainers
    lease: LeaseKeeper
    stop_after: timedelta

    @property
    def is_isolated(self) -> bool:
        """Tell whether nothing may run here any more."""
        return self.lease.unanswered_for >= self.stop_after

    async def run(self, stopping: asyncio.Event) -> None:
        """Look until `stopping` is set; containers outlive a process that is told to stop."""
        while not stopping.is_set():
            if self.is_isolated:
                await self._stop()
            await is_set_within(stopping, _INTERVAL_S)

    async def _stop(self) -> None:
        unanswered_s = self.lease.unanswered_for.total_seconds()
        count = 0
        try:
            count = await self.stop_containers()
        except* ModelyardError as group:
            logger.warning(
                "containers of a node that is cut off not stopped",
                errors=[str(error) for error in group.exceptions[:_TOLD_MAX]],
                failure_count=len(group.exceptions),
            )
        except* Exception as group:  # noqa: BLE001 a bug must not end the last resort
            logger.opt(exception=group).error("containers of a node that is cut off not stopped")
        if count:
            logger.warning(
                "node cut off, its containers stopped",
                containers_count=count,
                unanswered_s=unanswered_s,
            )
