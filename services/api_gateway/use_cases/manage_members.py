"""Add, change, list and remove a tenant's members.

A tenant's members are its own administrators' to decide about, and those of the platform; for
anybody else the tenant is not there. Who gives roles may do all that they may (as with keys).

Who could act late: a request for a tenant that is purged meanwhile, or twins that add up to a
tenant's bound. What refuses them: members are added under the lock of the tenant's row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from loguru import logger

from services.api_gateway.domain.member import MEMBERS_MAX, Member, Person
from services.api_gateway.domain.roles import Role, effective_scopes
from services.api_gateway.domain.scopes import require
from services.api_gateway.use_cases.ports import MemberTransaction, MemberUnitOfWork, TenantStore
from services.chassis.clock import Clock
from services.chassis.errors import NotFound, QuotaExceeded
from services.chassis.tenancy import Principal, TenantId


@dataclass(frozen=True, slots=True)
class PutMember:
    """Let somebody be a member with these roles and no others, everywhere within 2 s."""

    unit_of_work: MemberUnitOfWork
    clock: Clock
    members_max: int = MEMBERS_MAX

    async def __call__(
        self, by: Principal, tenant: TenantId, person: Person, roles: frozenset[Role]
    ) -> Member:
        """Return the member; again: no change.

        Raises NotFound for a tenant that is not the caller's, PermissionDenied, InvalidArgument,
        FailedPrecondition for a deleted tenant, QuotaExceeded.
        """
        _check_reached(by, tenant, every="tenants:write")
        for scope in sorted(effective_scopes(roles)):
            require(by, scope)
        async with self.unit_of_work(tenant) as tx:
            (await tx.members.locked_tenant()).check_kept()
            member = await self._put(tx, by, tenant, person, roles)
        logger.info(
            "member has roles",
            tenant=tenant,
            subject=person.subject,
            roles=sorted(roles),
            version=member.version,
            by=by.subject,
        )
        return member

    async def _put(
        self,
        tx: MemberTransaction,
        by: Principal,
        tenant: TenantId,
        person: Person,
        roles: frozenset[Role],
    ) -> Member:
        now = self.clock.now()
        found = await tx.members.find(person)
        if found is not None:
            changed = found.given(roles, by=by.subject, at=now)
            if changed != found:
                await tx.members.save(changed)
            return changed
        added = Member.added(tenant, person, roles, by=by.subject, at=now)
        count = await tx.members.count()
        if count >= self.members_max:
            raise QuotaExceeded("members", limit=self.members_max, used=count)
        await tx.members.add(added)
        return added


@dataclass(frozen=True, slots=True)
class ListMembers:
    """Show a tenant's members by issuer and subject."""

    tenants: TenantStore
    unit_of_work: MemberUnitOfWork

    async def __call__(
        self, by: Principal, tenant: TenantId, *, after: Person | None, limit: int
    ) -> Sequence[Member]:
        """Return members after this one; raises NotFound for a tenant that is not the caller's."""
        _check_reached(by, tenant, every="tenants:read")
        if await self.tenants.find(tenant) is None:
            raise NotFound("tenant", tenant)
        async with self.unit_of_work(tenant) as tx:
            return await tx.members.page(after=after, limit=limit)


@dataclass(frozen=True, slots=True)
class RemoveMember:
    """Let somebody be a member no longer, everywhere within 2 s."""

    unit_of_work: MemberUnitOfWork

    async def __call__(self, by: Principal, tenant: TenantId, person: Person) -> None:
        """Remove; raises NotFound for a tenant that is not the caller's, or who is no member."""
        _check_reached(by, tenant, every="tenants:write")
        async with self.unit_of_work(tenant) as tx:
            if not await tx.members.remove(person):
                raise NotFound("member", person.subject)
        logger.info("member removed", tenant=tenant, subject=person.subject, by=by.subject)


def _check_reached(by: Principal, tenant: TenantId, *, every: str) -> None:
    """Raise NotFound for another tenant than one's own, unless one has the scope for every one."""
    if by.tenant != tenant and every not in by.scopes:
        raise NotFound("tenant", tenant)
