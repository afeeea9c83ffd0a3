"""API keys: their text, their fingerprint, their life, and who is behind them.

Owns: the form `myk_<id>_<secret>` and its comparison. The secret has 256 bits of chance, so a plain
SHA-256 is a sufficient fingerprint: there is nothing to guess that a slow hash would protect
(ADR-0009). Always holds: the secret is never stored and is shown once.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final

from services.api_gateway.domain.member import Person
from services.api_gateway.domain.roles import Role, effective_scopes, roles_of
from services.api_gateway.domain.scopes import ADMIN
from services.chassis.tenancy import Principal, TenantId

_TEXT: Final = re.compile(r"myk_([0-9a-z]{26})_([0-9A-Za-z_-]{43})")
KEY: Final = "key:"
"""Begins a key's subject."""
PLATFORM: Final = "platform"
"""Stands for the maker of a key that the platform gave to a tenant; nobody's subject is so."""
NAME_CHARACTERS_MAX: Final = 80
LIFETIME_MAX: Final = timedelta(days=3660)
IN_FORCE_MAX: Final = 100
"""Of one tenant, unless the settings say otherwise."""
KEYS_LISTED_MAX: Final = 500
"""Of one tenant, in one page; who asks for no page sees all that are in force, of which there can
be no more."""
ROTATION_OVERLAP_MAX: Final = timedelta(days=30)
"""How long a key that was rotated stays in force at most."""
_NO_DIGEST: Final = bytes(32)


@dataclass(frozen=True)  # no slots: `principal` is worked out once
class ApiKey:
    """A stored key: everything but its secret. What it may do comes from its role or its scopes."""

    id: str
    tenant: TenantId
    name: str
    scopes: frozenset[str]
    secret_digest: bytes
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    role: Role | None = None
    last_used_at: datetime | None = None
    """A few minutes behind: uses are written together."""
    replaced_by: str | None = None
    """The key that was made by this one's rotation."""
    created_by: str | None = None
    """The subject of whoever made it, or `PLATFORM`; None: that was not recorded yet."""
    person: Person | None = None
    """Who made it, or is behind the key that made it; it ends with their membership."""

    def place(self, *, at: datetime) -> "KeyPlace":
        """Return where its tenant's list has it."""
        return KeyPlace(is_in_force=self.is_in_force(at=at), key_id=self.id)

    def is_in_force(self, *, at: datetime) -> bool:
        """Tell whether the key is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)

    @property
    def lifetime(self) -> timedelta | None:
        """How long the key lives in all; None: for ever."""
        return None if self.expires_at is None else self.expires_at - self.created_at

    @property
    def is_known(self) -> bool:
        """Tell whether this release knows what it may do: else it has a role of a newer one."""
        return self.role is not None or bool(self.scopes)

    def may_more_than(self, scopes: frozenset[str]) -> bool:
        """Tell whether it may do what these don't allow, as far as this release can tell."""
        named = self.scopes - {ADMIN}
        return not self.is_known or not (self.principal.scopes | named) <= scopes

    @cached_property
    def principal(self) -> Principal:
        """Whom a call with this key is by."""
        roles = roles_of(self.role, self.scopes)
        return Principal(
            tenant=self.tenant,
            subject=f"{KEY}{self.id}",
            scopes=effective_scopes(roles, self.scopes),
            roles=frozenset(roles),
        )


@dataclass(frozen=True, slots=True, order=True)
class KeyPlace:
    """Where a key stands in its tenant's list, which begins with the greatest place.

    A key moves in it once, on, as it ends: whoever reads page by page may meet it twice, but misses
    none.
    """

    is_in_force: bool
    key_id: str


def admitted(key: ApiKey | None, secret: str, *, at: datetime) -> Principal | None:
    """Return whom a call is by, None if the secret is not the key's or the key not in force.

    In constant time, also when there is no such key: an id must not be known by the time it takes.
    """
    expected = _NO_DIGEST if key is None else key.secret_digest
    matches = hmac.compare_digest(digest_of(secret), expected)
    return key.principal if key is not None and matches and key.is_in_force(at=at) else None


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """What a caller sent: the id that finds the key, and the secret that proves it."""

    id: str
    secret: str = field(repr=False)

    @staticmethod
    def parse(authorization: str | None) -> "PresentedKey | None":
        """Return the parts of a bearer's key, or None where the header holds none."""
        scheme, _, text = (authorization or "").partition(" ")
        found = _TEXT.fullmatch(text.strip()) if scheme.lower() == "bearer" else None
        return PresentedKey(id=f"key_{found[1]}", secret=found[2]) if found else None

    @property
    def text(self) -> str:
        """The key as its holder writes it."""
        return f"myk_{self.id.removeprefix('key_')}_{self.secret}"


def digest_of(secret: str) -> bytes:
    """Return the fingerprint under which a secret is stored (32 bytes)."""
    return hashlib.sha256(secret.encode()).digest()
