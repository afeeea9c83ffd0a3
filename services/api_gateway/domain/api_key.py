"""API keys: their text, their fingerprint, their life.

Owns: the form `myk_<id>_<secret>` and its comparison. The secret has 256 bits of chance, so a plain
SHA-256 is a sufficient fingerprint: there is nothing to guess that a slow hash would protect
(ADR-0009). Always holds: the secret is never stored and is shown once.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.api_gateway.domain.scopes import effective_scopes
from services.chassis.tenancy import Principal, TenantId

_TEXT: Final = re.compile(r"myk_([0-9a-z]{26})_([0-9A-Za-z_-]{43})")
NAME_CHARACTERS_MAX: Final = 80


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key: everything but its secret."""

    id: str
    tenant: TenantId
    name: str
    scopes: frozenset[str]
    secret_digest: bytes
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def admits(self, secret: str, *, at: datetime) -> bool:
        """Tell whether the secret is this key's and the key is in force, in constant time."""
        matches = hmac.compare_digest(digest_of(secret), self.secret_digest)
        in_force = self.revoked_at is None and (self.expires_at is None or at < self.expires_at)
        return matches and in_force

    @property
    def principal(self) -> Principal:
        """Whom a call with this key is by."""
        return Principal(
            tenant=self.tenant, subject=f"key:{self.id}", scopes=effective_scopes(self.scopes)
        )


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """What a caller sent: the id that finds the key, and the secret that proves it."""

    id: str
    secret: str

    @staticmethod
    def parse(text: str) -> "PresentedKey | None":
        """Return the parts of a key's text, or None where it has not the form of one."""
        found = _TEXT.fullmatch(text)
        return PresentedKey(id=f"key_{found[1]}", secret=found[2]) if found else None

    @property
    def text(self) -> str:
        """The key as its holder writes it."""
        return f"myk_{self.id.removeprefix('key_')}_{self.secret}"


def digest_of(secret: str) -> bytes:
    """Return the fingerprint under which a secret is stored (32 bytes)."""
    return hashlib.sha256(secret.encode()).digest()
