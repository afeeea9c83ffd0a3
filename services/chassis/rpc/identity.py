"""Short-lived signed tokens: which service calls, for whom, with what scopes (ADR-0010).

Owns: making and checking EdDSA JWTs of at most 60 s. Late actor: a token that is used after its
principal lost its rights; it is refused when it expires, so at most 60 s later.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from services.chassis.clock import Clock
from services.chassis.errors import Unauthenticated
from services.chassis.settings import IdentitySettings
from services.chassis.tenancy import Principal, TenantId

LIFETIME: Final = timedelta(seconds=60)
AUDIENCE: Final = "modelyard"
_LEEWAY: Final = timedelta(seconds=5)
_CACHED_COUNT_MAX: Final = 10_000
_ALGORITHM: Final = "EdDSA"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is behind a call: the principal that it is for, and the service that makes it."""

    principal: Principal
    service: str


class TokenSigner:
    """Signs as one service; a principal's token is used again for half of its life."""

    def __init__(self, service: str, private_key_pem: bytes, clock: Clock) -> None:
        key = load_pem_private_key(private_key_pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError("the identity key must be an Ed25519 key")
        self.service = service
        self._key = key
        self._clock = clock
        self._cache: OrderedDict[Principal, tuple[datetime, str]] = OrderedDict()

    @staticmethod
    def load(service: str, settings: IdentitySettings, clock: Clock) -> "TokenSigner":
        """Read the service's key."""
        return TokenSigner(service, settings.private_key_file.read_bytes(), clock)

    def token(self, principal: Principal) -> str:
        """Return a token that is valid for at least half of `LIFETIME`."""
        now = self._clock.now()
        cached = self._cache.get(principal)
        if cached is not None and now < cached[0]:
            return cached[1]
        token = jwt.encode(
            {
                "iss": self.service,
                "aud": AUDIENCE,
                "sub": principal.subject,
                "tenant": principal.tenant,
                "scopes": sorted(principal.scopes),
                "iat": now,
                "exp": now + LIFETIME,
            },
            self._key,
            algorithm=_ALGORITHM,
            headers={"kid": self.service},
        )
        self._cache[principal] = (now + LIFETIME / 2, token)
        self._cache.move_to_end(principal)
        while len(self._cache) > _CACHED_COUNT_MAX:
            self._cache.popitem(last=False)
        return token


class TokenVerifier:
    """Checks tokens of the services whose public keys it has."""

    def __init__(self, public_keys: Mapping[str, bytes], clock: Clock) -> None:
        self._keys = {service: _public_key(pem) for service, pem in public_keys.items()}
        self._clock = clock
        self._cache: OrderedDict[str, tuple[datetime, Caller]] = OrderedDict()

    @staticmethod
    def load(settings: IdentitySettings, clock: Clock) -> "TokenVerifier":
        """Read the keys of all trusted services."""
        files = sorted(settings.trusted_keys_folder.glob("*.pub.pem"))
        keys = {file.name.removesuffix(".pub.pem"): file.read_bytes() for file in files}
        return TokenVerifier(keys, clock)

    def verify(self, token: str) -> Caller:
        """Return who calls; raises Unauthenticated, never saying why."""
        now = self._clock.now()
        cached = self._cache.get(token)
        if cached is not None and now < cached[0]:
            return cached[1]
        expires_at, caller = self._checked(token, now)
        self._cache[token] = (expires_at, caller)
        while len(self._cache) > _CACHED_COUNT_MAX:
            self._cache.popitem(last=False)
        return caller

    def _checked(self, token: str, now: datetime) -> tuple[datetime, Caller]:
        try:
            service = str(jwt.get_unverified_header(token).get("kid", ""))
            key = self._keys.get(service)
            if key is None:
                raise Unauthenticated
            claims = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=AUDIENCE,
                issuer=service,
                options={
                    "require": ["exp", "iat", "sub", "tenant", "scopes"],
                    # Times are compared below, by our clock.
                    "verify_exp": False,
                    "verify_iat": False,
                },
            )
            issued_at = datetime.fromtimestamp(claims["iat"], UTC)
            expires_at = datetime.fromtimestamp(claims["exp"], UTC) + _LEEWAY
            principal = Principal(
                tenant=TenantId(str(claims["tenant"])),
                subject=str(claims["sub"]),
                scopes=frozenset(str(scope) for scope in claims["scopes"]),
            )
        except (jwt.InvalidTokenError, TypeError, ValueError, OverflowError) as error:
            raise Unauthenticated from error
        is_too_long = expires_at - issued_at > LIFETIME + _LEEWAY
        if is_too_long or not issued_at - _LEEWAY <= now < expires_at:
            raise Unauthenticated
        return expires_at, Caller(principal=principal, service=service)


def _public_key(pem: bytes) -> Ed25519PublicKey:
    key = load_pem_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise TypeError("a trusted key must be an Ed25519 key")
    return key
