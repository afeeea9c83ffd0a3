"""End tenants whose grace is over, and delete their keys and members.

Who could act late: a resumption that comes as the grace ends, or a gateway that makes a key for a
tenant that it remembers. What refuses it: the resumption waits for the row's lock and finds PURGED,
which has no way back, or was first; a key of a tenant that is none opens nothing
(`tenant_standing`), and the next pass deletes it (ADR-0017). Members are added under the tenant's
lock, so to one that is PURGED none.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.api_gateway.use_cases.ports import Lease, TenantStore, TenantTransaction


@dataclass(frozen=True, slots=True)
class PurgeTenants:
    """Move tenants to PURGED, row and event in one commit; their owners read the event."""

    store: TenantStore
    batch_max: int
    """Tenants of one transaction, keys or members; the rest: next pass."""

    async def __call__(self, lease: Lease) -> int:
        """Purge those that are due; returns how many there were."""
        async with self.store.changing() as tx:
            await tx.hold(lease)
            due = await tx.due(at=tx.now, limit=self.batch_max)
            for tenant in due:
                await tx.save(tenant, tenant.purged(at=tx.now))
        return len(due)

    async def delete_rest(self, lease: Lease) -> int:
        """Delete keys and members of purged tenants; returns how many there were."""
        limit = self.batch_max
        keys = await self._delete(lease, lambda tx: tx.delete_purged_keys(limit=limit))
        members = await self._delete(lease, lambda tx: tx.delete_purged_members(limit=limit))
        return keys + members

    async def _delete(
        self, lease: Lease, some: Callable[[TenantTransaction], Awaitable[int]]
    ) -> int:
        count = 0
        while True:
            async with self.store.changing() as tx:
                await tx.hold(lease)
                deleted = await some(tx)
            count += deleted
            if deleted < self.batch_max:
                return count
