"""The leader's pass over deployments: reconciling, and telling the routing table again.

Leaves to `leading` when it runs: at each commit, and each second.
"""

from dataclasses import dataclass

from services.chassis.db.lease import HeldLease, Recurrence
from services.scheduler.use_cases.deployments.reconcile_deployments import ReconcileDeployments
from services.scheduler.use_cases.deployments.republish_routes import RepublishRoutes


@dataclass(frozen=True, slots=True)
class TendDeployments:
    """Reconciles; publishes all routes when it begins to lead, and now and then."""

    reconcile: ReconcileDeployments
    republish_routes: RepublishRoutes
    republication: Recurrence

    async def __call__(self, held: HeldLease) -> int:
        """Return how many routes were published again; raises ModelyardError."""
        await self.reconcile(held)
        if not self.republication.is_due(held):
            return 0
        count = await self.republish_routes(held)
        self.republication.done(held)
        return count
