"""End tenants whose grace is over, and delete their keys.

Who could act late: a resumption that comes as the grace ends, or a gateway that makes a key for a
tenant that it remembers. What refuses it: the resumption waits for the row's lock and finds PURGED,
which has no way back, or was first; a key of a tenant that is none opens nothing
(`tenant_standing`), and the next pass deletes it (ADR-0017).
"""

from dataclasses import dataclass

from services.api_gateway.use_cases.ports import Lease, TenantStore


@dataclass(frozen=True, slots=True)
class PurgeTenants:
    """Move tenants to PURGED, row and event in one commit; their owners read the event."""

    store: TenantStore
    batch_max: int
    """Tenants of one transaction, or keys; the rest: next pass."""

    async def __call__(self, lease: Lease) -> int:
        """Purge those that are due; returns how many there were."""
        async with self.store.changing() as tx:
            await tx.hold(lease)
            due = await tx.due(at=tx.now, limit=self.batch_max)
            for tenant in due:
                await tx.save(tenant, tenant.purged(at=tx.now))
        return len(due)

    async def delete_keys(self, lease: Lease) -> int:
        """Delete keys of purged tenants; returns how many there were."""
        count = 0
        while True:
            async with self.store.changing() as tx:
                await tx.hold(lease)
                deleted = await tx.delete_purged_keys(limit=self.batch_max)
            count += deleted
            if deleted < self.batch_max:
                return count
