"""The leader's loop that stops what runs of suspended tenants.

Owns: when it looks: when a tenant has changed, and each `interval_max`, since an admission may
have been under way. The lease is the scheduling loop's: whoever admits is who stops.
"""

import asyncio
from dataclasses import dataclass

from loguru import logger

from services.chassis.db.lease import LeaseKeeper
from services.chassis.errors import ModelyardError
from services.chassis.waking import Waking
from services.scheduler.use_cases.tenants.stop_suspended_jobs import StopSuspendedJobs


@dataclass(frozen=True, slots=True)
class SuspensionsLoop:
    """Looks whenever a tenant has changed, and now and then."""

    stop_suspended_jobs: StopSuspendedJobs
    lease: LeaseKeeper
    waking: Waking

    async def run(self, stopping: asyncio.Event) -> None:
        """Look while this process leads, until `stopping` is set."""
        await self.waking.repeat(self.turn, stopping)

    async def turn(self) -> None:
        """Look once, if this process leads."""
        held = self.lease.held
        if held is None:
            return
        try:
            count = await self.stop_suspended_jobs(held)
        except ModelyardError as error:
            logger.warning("stopping jobs of suspended tenants failed", error=error.message)
            return
        if count:
            logger.info("jobs of suspended tenants asked to stop", jobs_count=count)
