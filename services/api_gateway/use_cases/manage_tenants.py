"""Suspend, resume, plan and delete tenants; tell them all again.

Who could act late: a process whose picture of the tenant is old. What refuses it: each change is
decided under the lock of the tenant's row and has the next version, and readers drop lower ones
(ADR-0017).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.api_gateway.domain.tenant import Plan, Tenant
from services.api_gateway.use_cases.ports import Lease, TenantStore
from services.api_gateway.use_cases.tenant_standing import TenantStanding
from services.chassis.errors import FailedPrecondition
from services.chassis.tenancy import Principal, TenantId


@dataclass(frozen=True, slots=True)
class ChangeTenant:
    """Suspend, resume, plan, delete: row and event in one commit; this process knows it at once."""

    store: TenantStore
    standing: TenantStanding

    async def suspend(self, by: Principal, tenant: TenantId, *, reason: str) -> Tenant:
        """Take away all but reading; raises NotFound, or FailedPrecondition for one's own tenant.

        Whoever could suspend the tenant of their own key would have nobody left to resume it.
        """
        _check_other(by, tenant, "suspended")
        return await self._change(tenant, lambda found, now: found.suspended(reason=reason, at=now))

    async def resume(self, tenant: TenantId) -> Tenant:
        """Give back what the tenant may; raises NotFound."""
        return await self._change(tenant, lambda found, now: found.resumed(at=now))

    async def delete(self, by: Principal, tenant: TenantId, *, grace: timedelta) -> Tenant:
        """Suspend the tenant, and let it be purged after the grace; until then it can be resumed.

        Raises NotFound, InvalidArgument, or FailedPrecondition for one's own tenant.
        """
        _check_other(by, tenant, "deleted")
        return await self._change(tenant, lambda found, now: found.deleted(grace=grace, at=now))

    async def plan(self, tenant: TenantId, plan: Plan) -> Tenant:
        """Set how much the tenant may have; raises NotFound or InvalidArgument."""
        return await self._change(tenant, lambda found, now: found.planned(plan, at=now))

    async def _change(
        self, tenant: TenantId, change: Callable[[Tenant, datetime], Tenant]
    ) -> Tenant:
        async with self.store.changing() as tx:
            found = await tx.get(tenant)
            changed = change(found, tx.now)
            await tx.save(found, changed)
        self.standing.learn(changed)
        return changed


def _check_other(by: Principal, tenant: TenantId, what: str) -> None:
    if by.tenant == tenant:
        raise FailedPrecondition(
            f"the tenant of the key that asks can't be {what} with it",
            detail={"kind": "tenant", "id": tenant, "field": "tenant_id"},
        )


@dataclass(frozen=True, slots=True)
class RepublishTenants:
    """Publish every tenant again, so that a reader which lost some becomes whole again.

    The versions stay, so readers that are up to date learn nothing new.
    """

    store: TenantStore
    batch_max: int

    async def __call__(self, lease: Lease) -> int:
        """Publish batch by batch; returns how many there were."""
        count, after = 0, ""
        while True:
            async with self.store.changing() as tx:
                await tx.hold(lease)
                tenants = await tx.locked_page(after=after, limit=self.batch_max)
                for tenant in tenants:
                    tx.emit(tenant)
            count += len(tenants)
            if len(tenants) < self.batch_max:
                return count
            after = tenants[-1].id
