"""Issue, list, rotate and revoke a tenant's API keys.

Who could act late: twins that add up to a tenant's bound; whoever makes a key and was ended a
moment ago (`makers`). What refuses them: keys are made and revoked under the lock of the
tenant's row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from loguru import logger

from services.api_gateway.domain.api_key import (
    IN_FORCE_MAX,
    KEYS_LISTED_MAX,
    LIFETIME_MAX,
    NAME_CHARACTERS_MAX,
    ROTATION_OVERLAP_MAX,
    ApiKey,
    KeyPlace,
    PresentedKey,
    digest_of,
)
from services.api_gateway.domain.member import Person
from services.api_gateway.domain.roles import Role
from services.api_gateway.domain.scopes import check_scopes, require
from services.api_gateway.use_cases.makers import Makers
from services.api_gateway.use_cases.ports import Transaction, UnitOfWork
from services.chassis.clock import Clock
from services.chassis.errors import FailedPrecondition, InvalidArgument, QuotaExceeded
from services.chassis.ids import Ids
from services.chassis.tenancy import Principal, TenantId


@dataclass(frozen=True, slots=True)
class NewKeys:
    """Makes keys that are not stored yet."""

    clock: Clock
    ids: Ids
    new_secret: Callable[[], str]

    def make(
        self,
        tenant: TenantId,
        *,
        name: str,
        created_by: str,
        person: Person | None = None,
        scopes: frozenset[str] = frozenset(),
        role: Role | None = None,
        lifetime: timedelta | None = None,
    ) -> tuple[ApiKey, str]:
        """Return a key and its text; raises InvalidArgument."""
        if (role is None) == (not scopes):
            raise InvalidArgument("scopes", "either a role or scopes must be given")
        check_scopes(scopes)
        now = self.clock.now()
        presented = PresentedKey(id=self.ids.new("key"), secret=self.new_secret())
        key = ApiKey(
            id=presented.id,
            tenant=tenant,
            name=name,
            scopes=scopes,
            secret_digest=digest_of(presented.secret),
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
            revoked_at=None,
            role=role,
            created_by=created_by,
            person=person,
        )
        return key, presented.text


@dataclass(frozen=True, slots=True)
class IssueKey:
    """Make a key and show its text, this once; it may do no more than its issuer may."""

    unit_of_work: UnitOfWork
    new_keys: NewKeys
    makers: Makers
    in_force_max: int = IN_FORCE_MAX

    async def __call__(
        self,
        issuer: Principal,
        *,
        name: str,
        scopes: frozenset[str] = frozenset(),
        role: Role | None = None,
        lifetime: timedelta | None = None,
    ) -> tuple[ApiKey, str]:
        """Return the stored key and its text.

        Raises InvalidArgument, PermissionDenied, QuotaExceeded, Unauthenticated for who was ended
        meanwhile.
        """
        if not 1 <= len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
            raise InvalidArgument(
                "name", f"must have 1 to {NAME_CHARACTERS_MAX} printable characters"
            )
        if lifetime is not None and not timedelta(0) < lifetime <= LIFETIME_MAX:
            raise InvalidArgument(
                "lifetime", f"must be more than 0 seconds and at most {LIFETIME_MAX.days} days"
            )
        async with self.unit_of_work(issuer.tenant) as tx:
            maker = await self.makers(tx, issuer, scope="keys:write")
            key, text = self.new_keys.make(
                issuer.tenant,
                name=name,
                created_by=issuer.subject,
                person=maker.person,
                scopes=scopes,
                role=role,
                lifetime=lifetime,
            )
            require_all(maker.principal, key)
            await _check_room(tx, in_force_max=self.in_force_max)
            await tx.keys.add(key)
        logger.info("key made", tenant=key.tenant, key_id=key.id, by=issuer.subject)
        return key, text


@dataclass(frozen=True, slots=True)
class ListKeys:
    """Show a tenant's keys, those in force first, without their secrets."""

    unit_of_work: UnitOfWork

    async def __call__(
        self, tenant: TenantId, *, after: KeyPlace | None = None, limit: int = KEYS_LISTED_MAX
    ) -> tuple[Sequence[ApiKey], KeyPlace | None]:
        """Return a page that follows a place, and the place of its last key if others follow."""
        async with self.unit_of_work(tenant) as tx:
            found = await tx.keys.list(after=after, at=tx.now, limit=limit + 1)
        page = found[:limit]
        return page, page[-1].place(at=tx.now) if len(found) > limit else None


@dataclass(frozen=True, slots=True)
class RevokeKey:
    """Put a key out of force, everywhere within 2 s."""

    unit_of_work: UnitOfWork

    async def __call__(self, by: Principal, key_id: str) -> None:
        """Revoke; raises NotFound for another tenant's key too."""
        async with self.unit_of_work(by.tenant) as tx:
            await tx.members.locked_tenant()
            await tx.keys.revoke(key_id, at=tx.now)
        logger.info("key revoked", tenant=by.tenant, key_id=key_id, by=by.subject)


@dataclass(frozen=True, slots=True)
class RotateKey:
    """Put a new key in an old one's place: same name and rights; the old one ends after `overlap`.

    Whoever rotates gets a key in hand, so may do all that it may. A key has one successor: a twin
    of this call, or its repetition, is refused, and the successor's text is lost with its answer.
    The successor is theirs: it does not end with who was behind the old one.
    """

    unit_of_work: UnitOfWork
    new_keys: NewKeys
    makers: Makers
    in_force_max: int = IN_FORCE_MAX

    async def __call__(
        self, issuer: Principal, key_id: str, *, overlap: timedelta
    ) -> tuple[ApiKey, str, ApiKey]:
        """Return the new key, its text, and the old key.

        Raises NotFound for another tenant's key too, PermissionDenied, FailedPrecondition,
        QuotaExceeded, Unauthenticated for who was ended meanwhile.
        """
        if not timedelta(0) <= overlap <= ROTATION_OVERLAP_MAX:
            raise InvalidArgument("overlap", f"must be 0 to {ROTATION_OVERLAP_MAX.days} days")
        async with self.unit_of_work(issuer.tenant) as tx:
            maker = await self.makers(tx, issuer, scope="keys:write")
            old = await tx.keys.locked(key_id)
            now = tx.now
            require_all(maker.principal, old)
            if old.replaced_by is not None:
                raise FailedPrecondition(f"{key_id} was rotated before, to {old.replaced_by}")
            if not old.is_in_force(at=now):
                raise FailedPrecondition(f"{key_id} is not in force")
            if not old.is_known:
                raise FailedPrecondition(f"{key_id} has a role that this release does not know")
            new, text = self.new_keys.make(
                old.tenant,
                name=old.name,
                created_by=issuer.subject,
                person=maker.person,
                scopes=old.scopes,
                role=old.role,
                lifetime=old.lifetime,
            )
            ends_at = (
                now + overlap if old.expires_at is None else min(old.expires_at, now + overlap)
            )
            replaced = replace(old, replaced_by=new.id, expires_at=ends_at)
            await tx.keys.save_rotated(replaced)
            await _check_room(tx, in_force_max=self.in_force_max)
            await tx.keys.add(new)
        logger.info(
            "key rotated",
            tenant=old.tenant,
            key_id=old.id,
            replaced_by=new.id,
            by=issuer.subject,
        )
        return new, text, replaced


async def _check_room(tx: Transaction, *, in_force_max: int) -> None:
    """Raise QuotaExceeded unless the tenant, whose row is locked, may have one more key."""
    count = await tx.keys.count_in_force(at=tx.now)
    if count >= in_force_max:
        raise QuotaExceeded("API keys in force", limit=in_force_max, used=count)


def require_all(issuer: Principal, key: ApiKey) -> None:
    """Raise PermissionDenied unless the issuer may do all that the key may."""
    for scope in sorted(key.principal.scopes):
        require(issuer, scope)
