"""Deleting what purged tenants have, in the process that leads.

Leaves to `chassis.purges` when to look; what still ran at the purge has ended by a later look. The
lease is the scheduling loop's.
"""

from dataclasses import dataclass

from services.chassis.db.lease import LeaseKeeper
from services.scheduler.use_cases.tenants.purge_tenants import PurgeTenants


@dataclass(frozen=True, slots=True)
class PurgeWhileLeading:
    """Runs a pass if this process leads; another one's leader does it else."""

    purge_tenants: PurgeTenants
    lease: LeaseKeeper

    async def __call__(self) -> int:
        """Return how much was done."""
        held = self.lease.held
        return 0 if held is None else await self.purge_tenants(held)
