"""Suspend, resume, plan and delete tenants; tell them all again.

Who could act late: a process whose picture of the tenant is old. What refuses it: each change is
decided under the lock of the tenant's row and has the next version, and readers drop lower ones
(ADR-0017). An administrator whose own tenant is suspended meanwhile, by the very one whom they
suspend; refused under the lock of their own tenant's row. Somebody who changes what another has
changed meanwhile: refused if they say for which version their change is (ADR-0028).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from loguru import logger

from services.api_gateway.domain.tenant import Plan, Tenant
from services.api_gateway.use_cases.ports import Lease, TenantStore
from services.api_gateway.use_cases.tenant_standing import TenantStanding
from services.chassis.errors import FailedPrecondition, check_version
from services.chassis.tenancy import Principal, TenantId


@dataclass(frozen=True, slots=True)
class ChangeTenant:
    """Suspend, resume, plan, delete: row and event in one commit; this process knows it at once.

    Whoever asks must be of a tenant that is active as of the commit, else TenantSuspended. With
    `if_version` only that version is changed, else VersionMismatch; what is to change nothing is
    answered nevertheless.
    """

    store: TenantStore
    standing: TenantStanding

    async def suspend(
        self, by: Principal, tenant: TenantId, *, reason: str, if_version: int | None = None
    ) -> Tenant:
        """Take away all but reading; raises NotFound, or FailedPrecondition for one's own tenant.

        Whoever could suspend the tenant of their own key would have nobody left to resume it.
        """
        _check_other(by, tenant, "suspended")
        return await self._change(
            by, tenant, if_version, lambda found, now: found.suspended(reason=reason, at=now)
        )

    async def resume(
        self, by: Principal, tenant: TenantId, *, if_version: int | None = None
    ) -> Tenant:
        """Give back what the tenant may; raises NotFound."""
        return await self._change(by, tenant, if_version, lambda found, now: found.resumed(at=now))

    async def delete(
        self, by: Principal, tenant: TenantId, *, grace: timedelta, if_version: int | None = None
    ) -> Tenant:
        """Suspend the tenant, and let it be purged after the grace; until then it can be resumed.

        Raises NotFound, InvalidArgument, or FailedPrecondition for one's own tenant.
        """
        _check_other(by, tenant, "deleted")
        return await self._change(
            by, tenant, if_version, lambda found, now: found.deleted(grace=grace, at=now)
        )

    async def plan(
        self, by: Principal, tenant: TenantId, plan: Plan, *, if_version: int | None = None
    ) -> Tenant:
        """Set how much the tenant may have; raises NotFound or InvalidArgument."""
        return await self._change(
            by, tenant, if_version, lambda found, now: found.planned(plan, at=now)
        )

    async def _change(
        self,
        by: Principal,
        tenant: TenantId,
        if_version: int | None,
        change: Callable[[Tenant, datetime], Tenant],
    ) -> Tenant:
        async with self.store.changing() as tx:
            # Both rows, in one order for everybody: those who suspend each other take turns, and
            # the second finds itself suspended. So somebody is left who can resume.
            locked = {name: await tx.get(name) for name in sorted({by.tenant, tenant})}
            locked[by.tenant].check_active()
            found = locked[tenant]
            changed = change(found, tx.now)
            if changed != found:
                check_version("tenant", tenant, current=found.version, if_version=if_version)
                await tx.save(found, changed)
        self.standing.learn(changed)
        if changed != found:
            logger.info(
                "tenant changed",
                tenant=tenant,
                state=changed.state,
                version=changed.version,
                by=by.subject,
                by_tenant=by.tenant,
            )
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

    The versions stay, so readers that are up to date learn nothing new. Whose state only a newer
    release knows is left to it: told as something else, it would stay so on a compacted topic.
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
                    if tenant.is_known:
                        tx.emit(tenant)
            count += len(tenants)
            if len(tenants) < self.batch_max:
                return count
            after = tenants[-1].id
