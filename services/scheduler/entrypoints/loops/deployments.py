"""The leader's loops for deployments: reconciling, and telling the routing table again.

Owns: when they run. The lease is the scheduling loop's: one leader does both.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from loguru import logger

from services.chassis.clock import Clock
from services.chassis.db.lease import HeldLease, LeaseKeeper
from services.chassis.errors import ModelyardError
from services.scheduler.entrypoints.loops.waking import Waking
from services.scheduler.use_cases.deployments.reconcile_deployments import ReconcileDeployments
from services.scheduler.use_cases.deployments.republish_routes import RepublishRoutes


@dataclass(slots=True)
class DeploymentsLoop:
    """Reconciles at each commit and each second; publishes all routes when it begins to lead."""

    reconcile: ReconcileDeployments
    republish_routes: RepublishRoutes
    republish_interval: timedelta
    lease: LeaseKeeper
    waking: Waking
    clock: Clock
    _republished_epoch: int | None = None
    _republished_at_s: float = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Work while this process leads, until `stopping` is set."""
        async with self.waking.also_when(stopping):
            while not stopping.is_set():
                await self.turn()
                await self.waking.wait()

    async def turn(self) -> None:
        """Do what is due, if this process leads."""
        held = self.lease.held
        if held is None:
            return
        try:
            await self.reconcile(held)
            if self._is_republication_due(held):
                count = await self.republish_routes(held)
                logger.info("routes published again", routes_count=count)
                self._republished_epoch = held.epoch
                self._republished_at_s = self.clock.monotonic()
        except ModelyardError as error:
            logger.warning("reconciling deployments failed", error=error.message)

    def _is_republication_due(self, held: HeldLease) -> bool:
        since_s = self.clock.monotonic() - self._republished_at_s
        return (
            held.epoch != self._republished_epoch
            or since_s >= self.republish_interval.total_seconds()
        )
