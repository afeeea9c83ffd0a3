"""API keys: their text, their fingerprint, their life.

Owns: the form `myk_<id>_<secret>` and its comparison. The secret has 256 bits of chance, so a plain
SHA-256 is a sufficient fingerprint: there is nothing to guess that a slow hash would protect
(ADR-0009). Always holds: the secret is never stored and is shown once.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.api_gateway.domain.roles import Role, effective_scopes, roles_of
from services.chassis.tenancy import Principal, TenantId

_TEXT: Final = re.compile(r"myk_([0-9a-z]{26})_([0-9A-Za-z_-]{43})")
NAME_CHARACTERS_MAX: Final = 80
ROTATION_OVERLAP_MAX: Final = timedelta(days=30)
"""How long a key that was rotated stays in force at most."""
_NO_DIGEST: Final = bytes(32)


@dataclass(frozen=True, slots=True)
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

    def is_in_force(self, *, at: datetime) -> bool:
        """Tell whether the key is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)

    @property
    def lifetime(self) -> timedelta | None:
        """How long the key lives in all; None: for ever."""
        return None if self.expires_at is None else self.expires_at - self.created_at

    @property
    def principal(self) -> Principal:
        """Whom a call with this key is by."""
        roles = roles_of(self.role, self.scopes)
        return Principal(
            tenant=self.tenant,
            subject=f"key:{self.id}",
            scopes=effective_scopes(roles, self.scopes),
            roles=frozenset(roles),
        )


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
    secret: str

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
