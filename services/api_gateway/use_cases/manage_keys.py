"""Issue, list and revoke a tenant's API keys."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from services.api_gateway.domain.api_key import (
    NAME_CHARACTERS_MAX,
    ApiKey,
    PresentedKey,
    digest_of,
)
from services.api_gateway.domain.scopes import check_scopes, require
from services.api_gateway.use_cases.ports import UnitOfWork
from services.chassis.clock import Clock
from services.chassis.errors import InvalidArgument
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
        scopes: frozenset[str],
        lifetime: timedelta | None = None,
    ) -> tuple[ApiKey, str]:
        """Return a key and its text; raises InvalidArgument."""
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
        scopes: frozenset[str],
        lifetime: timedelta | None = None,
    ) -> tuple[ApiKey, str]:
        """Return the stored key and its text; raises InvalidArgument or PermissionDenied."""
        key, text = self.new_keys.make(issuer.tenant, name=name, scopes=scopes, lifetime=lifetime)
        for scope in sorted(scopes):
            require(issuer, scope)
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
