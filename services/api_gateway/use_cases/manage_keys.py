"""Issue, list, rotate and revoke a tenant's API keys."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from services.api_gateway.domain.api_key import (
    NAME_CHARACTERS_MAX,
    ROTATION_OVERLAP_MAX,
    ApiKey,
    PresentedKey,
    digest_of,
)
from services.api_gateway.domain.roles import Role
from services.api_gateway.domain.scopes import check_scopes, require
from services.api_gateway.use_cases.ports import UnitOfWork
from services.chassis.clock import Clock
from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.chassis.ids import Ids
from services.chassis.tenancy import Principal, TenantId

KEYS_LISTED_MAX = 500


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
        scopes: frozenset[str] = frozenset(),
        role: Role | None = None,
        lifetime: timedelta | None = None,
    ) -> tuple[ApiKey, str]:
        """Return a key and its text; raises InvalidArgument."""
        if (role is None) == (not scopes):
            raise InvalidArgument("scopes", "either a role or scopes must be given")
        if not 1 <= len(name) <= NAME_CHARACTERS_MAX:
            raise InvalidArgument("name", f"must have 1 to {NAME_CHARACTERS_MAX} characters")
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
        )
        return key, presented.text


@dataclass(frozen=True, slots=True)
class IssueKey:
    """Make a key and show its text, this once; it may do no more than its issuer may."""

    unit_of_work: UnitOfWork
    new_keys: NewKeys

    async def __call__(
        self,
        issuer: Principal,
        *,
        name: str,
        scopes: frozenset[str] = frozenset(),
        role: Role | None = None,
        lifetime: timedelta | None = None,
    ) -> tuple[ApiKey, str]:
        """Return the stored key and its text; raises InvalidArgument or PermissionDenied."""
        key, text = self.new_keys.make(
            issuer.tenant, name=name, scopes=scopes, role=role, lifetime=lifetime
        )
        _require_all(issuer, key)
        async with self.unit_of_work(issuer.tenant) as tx:
            await tx.keys.add(key)
        return key, text


@dataclass(frozen=True, slots=True)
class ListKeys:
    """Show a tenant's keys, newest first, without their secrets."""

    unit_of_work: UnitOfWork

    async def __call__(self, tenant: TenantId) -> Sequence[ApiKey]:
        """Return at most `KEYS_LISTED_MAX` keys."""
        async with self.unit_of_work(tenant) as tx:
            return await tx.keys.list(limit=KEYS_LISTED_MAX)


@dataclass(frozen=True, slots=True)
class RevokeKey:
    """Put a key out of force, everywhere within 2 s."""

    unit_of_work: UnitOfWork
    clock: Clock

    async def __call__(self, tenant: TenantId, key_id: str) -> None:
        """Revoke; raises NotFound for another tenant's key too."""
        async with self.unit_of_work(tenant) as tx:
            await tx.keys.revoke(key_id, at=self.clock.now())


@dataclass(frozen=True, slots=True)
class RotateKey:
    """Put a new key in an old one's place: same name and rights; the old one ends after `overlap`.

    Whoever rotates gets a key in hand, so may do all that it may. A key has one successor: a twin
    of this call, or its repetition, is refused, and the successor's text is lost with its answer.
    """

    unit_of_work: UnitOfWork
    new_keys: NewKeys
    clock: Clock

    async def __call__(
        self, issuer: Principal, key_id: str, *, overlap: timedelta
    ) -> tuple[ApiKey, str, ApiKey]:
        """Return the new key, its text, and the old key.

        Raises NotFound for another tenant's key too, PermissionDenied, FailedPrecondition.
        """
        if not timedelta(0) <= overlap <= ROTATION_OVERLAP_MAX:
            raise InvalidArgument("overlap", f"must be 0 to {ROTATION_OVERLAP_MAX.days} days")
        async with self.unit_of_work(issuer.tenant) as tx:
            old = await tx.keys.locked(key_id)
            now = self.clock.now()
            _require_all(issuer, old)
            if old.replaced_by is not None:
                raise FailedPrecondition(f"{key_id} was rotated before, to {old.replaced_by}")
            if not old.is_in_force(at=now):
                raise FailedPrecondition(f"{key_id} is not in force")
            new, text = self.new_keys.make(
                old.tenant, name=old.name, scopes=old.scopes, role=old.role, lifetime=old.lifetime
            )
            ends_at = (
                now + overlap if old.expires_at is None else min(old.expires_at, now + overlap)
            )
            replaced = replace(old, replaced_by=new.id, expires_at=ends_at)
            await tx.keys.add(new)
            await tx.keys.save_rotated(replaced)
        return new, text, replaced


def _require_all(issuer: Principal, key: ApiKey) -> None:
    """Raise PermissionDenied unless the issuer may do all that the key may."""
    for scope in sorted(key.principal.scopes):
        require(issuer, scope)
