"""Make a tenant with its first administrator key; or another one, when that is lost.

Here, too, the platform's own administration begins anew when nobody has a key to it any more.
"""

from dataclasses import dataclass

from loguru import logger

from services.api_gateway.domain.api_key import PLATFORM
from services.api_gateway.domain.roles import Role
from services.api_gateway.domain.tenant import Plan, Tenant
from services.api_gateway.use_cases.manage_keys import NewKeys, require_all
from services.api_gateway.use_cases.ports import TenantStore
from services.chassis.errors import FailedPrecondition
from services.chassis.tenancy import Principal, TenantId


@dataclass(frozen=True, slots=True)
class CreateTenant:
    """Make a tenant that does not exist yet, and a key that may do everything in it."""

    store: TenantStore
    new_keys: NewKeys

    async def __call__(
        self, tenant: TenantId, *, plan: Plan | None = None, administers_platform: bool = False
    ) -> tuple[Tenant, str]:
        """Return the tenant and the key's text; raises AlreadyExists, InvalidArgument."""
        role = Role.PLATFORM_ADMIN if administers_platform else Role.ADMIN
        key, text = self.new_keys.make(tenant, name="first", created_by=PLATFORM, role=role)
        async with self.store.changing() as tx:
            created = Tenant.created(tenant, plan or Plan(), at=tx.now)
            if not await tx.add(created, key):
                raise (await tx.get(tenant)).name_taken(at=tx.now)
        return created, text


@dataclass(frozen=True, slots=True)
class IssueTenantKey:
    """Make another administrator key of a tenant in which nobody has one any more.

    A new tenant's first key is lost with the answer that showed it. Whoever asks gets a key in hand
    that opens all that the tenant has, so may do all that it may: to suspend tenants is not enough.
    """

    store: TenantStore
    new_keys: NewKeys

    async def __call__(self, by: Principal, tenant: TenantId) -> str:
        """Return the key's text.

        Raises PermissionDenied, NotFound, FailedPrecondition for a deleted or one's own tenant.

        There a key may do no more than its issuer (`IssueKey`); here the issuer is no member.
        """
        if by.tenant == tenant:
            raise FailedPrecondition(
                "keys of one's own tenant are made as its member",
                detail={"kind": "tenant", "id": tenant},
            )
        key, text = self.new_keys.make(
            tenant, name="issued by the platform", created_by=PLATFORM, role=Role.ADMIN
        )
        require_all(by, key)
        async with self.store.changing() as tx:
            (await tx.get(tenant)).check_kept()
            await tx.add_key(key)
        logger.info(
            "key given to a tenant",
            tenant=tenant,
            key_id=key.id,
            by=by.subject,
            by_tenant=by.tenant,
        )
        return text


@dataclass(frozen=True, slots=True)
class IssuePlatformKey:
    """Make another key that administers the platform.

    For whoever runs the gateway, when the last one is lost or was ended; no route leads here.
    """

    store: TenantStore
    new_keys: NewKeys

    async def __call__(self, tenant: TenantId) -> str:
        """Return the key's text; raises NotFound, FailedPrecondition for a deleted tenant."""
        key, text = self.new_keys.make(
            tenant, name="issued by the operator", created_by=PLATFORM, role=Role.PLATFORM_ADMIN
        )
        async with self.store.changing() as tx:
            (await tx.get(tenant)).check_kept()
            await tx.add_key(key)
        return text
