"""Add, change, list and remove a tenant's members.

A tenant's members are its own administrators' to decide about, and those of the platform; for
anybody else the tenant is not there. Who gives roles may do all that they may (as with keys). A
tenant keeps its last administrator, unless one of the platform's decides otherwise.

The keys that somebody is behind end with their membership, and those that may do more than they
still may with their roles, in the same commit (ADR-0027).

Who could act late: a request for a tenant that is purged meanwhile, twins that add up to a tenant's
bound, administrators who remove each other, and one who was removed and whom a gateway still
remembers. What refuses them: members are added, changed and removed under the lock of the tenant's
row, under which the tenant's own callers are looked up again (`makers`). Somebody who changes what
another has changed meanwhile: refused if they say for which version their change is (ADR-0028).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loguru import logger

from services.api_gateway.domain.member import MEMBERS_MAX, Member, Person
from services.api_gateway.domain.roles import Role, effective_scopes
from services.api_gateway.domain.scopes import require
from services.api_gateway.domain.tenant import Tenant
from services.api_gateway.use_cases.makers import Makers
from services.api_gateway.use_cases.ports import TenantStore, Transaction, UnitOfWork
from services.chassis.clock import Clock
from services.chassis.errors import FailedPrecondition, NotFound, QuotaExceeded, check_version
from services.chassis.tenancy import Principal, TenantId

_EVERY: Final = "tenants:write"
"""The scope of those who decide about every tenant's members."""


@dataclass(frozen=True, slots=True)
class PutMember:
    """Let somebody be a member with these roles and no others, everywhere within 2 s."""

    unit_of_work: UnitOfWork
    clock: Clock
    makers: Makers
    members_max: int = MEMBERS_MAX

    async def __call__(
        self,
        by: Principal,
        tenant: TenantId,
        person: Person,
        roles: frozenset[Role],
        *,
        if_version: int | None = None,
    ) -> Member:
        """Return the member, whose keys may do no more than the roles; again: no change.

        Raises NotFound for a tenant that is not the caller's, PermissionDenied, Unauthenticated,
        FailedPrecondition for a deleted tenant or its last administrator, QuotaExceeded,
        VersionMismatch.
        """
        _check_reached(by, tenant, every=_EVERY)
        async with self.unit_of_work(tenant) as tx:
            locked = await tx.members.locked_tenant()
            locked.check_kept()
            by = await _as_stored(self.makers, tx, by, locked)
            for scope in sorted(effective_scopes(roles)):
                require(by, scope)
            member = await self._put(tx, by, tenant, person, roles=roles, if_version=if_version)
            revoked = await _revoke_keys(tx, person, beyond=effective_scopes(roles))
        logger.info(
            "member has roles",
            tenant=tenant,
            subject=person.subject,
            roles=sorted(roles),
            version=member.version,
            revoked_keys=revoked,
            by=by.subject,
        )
        return member

    async def _put(
        self,
        tx: Transaction,
        by: Principal,
        tenant: TenantId,
        person: Person,
        *,
        roles: frozenset[Role],
        if_version: int | None,
    ) -> Member:
        now = self.clock.now()
        found = await tx.members.find(person)
        if found is not None:
            changed = found.given(roles, by=by.subject, at=now)
            if changed == found:
                return found
            check_version("member", person.subject, current=found.version, if_version=if_version)
            if not changed.is_administrator:
                await _check_not_last(tx, by, found, field="roles")
            await tx.members.save(changed)
            return changed
        check_version("member", person.subject, current=None, if_version=if_version)
        added = Member.added(
            tenant,
            person,
            roles,
            by=by.subject,
            at=now,
            removed_version_max=await tx.members.removed_version_max(),
        )
        count = await tx.members.count()
        if count >= self.members_max:
            raise QuotaExceeded("members", limit=self.members_max, used=count)
        await tx.members.add(added)
        return added


@dataclass(frozen=True, slots=True)
class ListMembers:
    """Show a tenant's members by issuer and subject."""

    tenants: TenantStore
    unit_of_work: UnitOfWork

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
    """Let somebody be a member no longer, and their keys open nothing, everywhere within 2 s.

    Keys of whoever is no member (any more) are revoked, too: where tokens' claims let people in,
    that is all that there is to end here.
    """

    unit_of_work: UnitOfWork
    makers: Makers

    async def __call__(
        self, by: Principal, tenant: TenantId, person: Person, *, if_version: int | None = None
    ) -> None:
        """Remove; who is no member stays none.

        Raises NotFound for a tenant that is not the caller's, FailedPrecondition for its last
        administrator, VersionMismatch.
        """
        _check_reached(by, tenant, every=_EVERY)
        async with self.unit_of_work(tenant) as tx:
            by = await _as_stored(self.makers, tx, by, await tx.members.locked_tenant())
            found = await tx.members.find(person)
            if found is not None:
                check_version(
                    "member", person.subject, current=found.version, if_version=if_version
                )
                await _check_not_last(tx, by, found, field="subject")
                await tx.members.remove(person)
            revoked = await _revoke_keys(tx, person)
        if found is not None or revoked:
            logger.info(
                "member removed",
                tenant=tenant,
                subject=person.subject,
                revoked_keys=revoked,
                by=by.subject,
            )


async def _as_stored(makers: Makers, tx: Transaction, by: Principal, tenant: Tenant) -> Principal:
    """Return one of the tenant's own with what they may by now; others are not in this store."""
    if by.tenant != tenant.id:
        return by
    return (await makers.in_locked(tx, tenant, by, scope="members:write")).principal


async def _revoke_keys(
    tx: Transaction, person: Person, *, beyond: frozenset[str] = frozenset()
) -> Sequence[str]:
    """Revoke the keys that somebody is behind and that may do more than these scopes."""
    keys = await tx.keys.in_force_of(person, at=tx.now)
    revoked = [key.id for key in keys if key.may_more_than(beyond)]
    await tx.keys.revoke_all(revoked, at=tx.now)
    return revoked


async def _check_not_last(tx: Transaction, by: Principal, member: Member, *, field: str) -> None:
    """Raise FailedPrecondition naming `field` for an administrator beside whom there is none."""
    if _EVERY in by.scopes or not member.is_administrator:
        return
    if not await tx.members.has_administrator_beside(member.person):
        problem = (
            f"{member.person.subject} is the last administrator of {member.tenant}:"
            " make somebody else one before, or ask the platform's administrators"
        )
        raise FailedPrecondition(f"{field}: {problem}", detail={"field": field, "problem": problem})


def _check_reached(by: Principal, tenant: TenantId, *, every: str) -> None:
    """Raise NotFound for another tenant than one's own, unless one has the scope for every one."""
    if by.tenant != tenant and every not in by.scopes:
        raise NotFound("tenant", tenant)
