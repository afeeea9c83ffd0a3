"""The leader's loops for deployments: reconciling, and telling the routing table again.

Owns: when they run. The lease is the scheduling loop's: one leader does both.
"""

import asyncio
from dataclasses import dataclass

from loguru import logger

from services.chassis.db.lease import LeaseKeeper, Recurrence
from services.chassis.errors import ModelyardError
from services.chassis.waking import Waking
from services.scheduler.use_cases.deployments.reconcile_deployments import ReconcileDeployments
from services.scheduler.use_cases.deployments.republish_routes import RepublishRoutes


@dataclass(frozen=True, slots=True)
class DeploymentsLoop:
    """Reconciles at each commit and each second; publishes all routes when it begins to lead."""

    reconcile: ReconcileDeployments
    republish_routes: RepublishRoutes
    republication: Recurrence
    lease: LeaseKeeper
    waking: Waking

    async def run(self, stopping: asyncio.Event) -> None:
        """Work while this process leads, until `stopping` is set."""
        await self.waking.repeat(self.turn, stopping)

    async def turn(self) -> None:
        """Do what is due, if this process leads."""
        held = self.lease.held
        if held is None:
            return
        try:
            await self.reconcile(held)
            if self.republication.is_due(held):
                count = await self.republish_routes(held)
                logger.info("routes published again", routes_count=count)
                self.republication.done(held)
        except ModelyardError as error:
            logger.warning("reconciling deployments failed", error=error.message)
