"""Short-lived signed tokens: who calls whom, for which principal, with what scopes (ADR-0010).

Owns: making and checking EdDSA JWTs of at most 60 s. Leaves to `key_files` which keys there are;
they may change at any time. Late actors: a token that is used after its principal lost its rights
is refused when it expires, so at most 60 s later; one of a key that is no longer trusted is refused
when that is noticed, also if it was accepted before; one that is handed on is refused by every
service but the one that was called with it.

Clocks may be set back: what was signed, or found good, at a time that has not come yet counts for
nothing.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import jwt

from services.chassis.clock import Clock
from services.chassis.errors import Unauthenticated
from services.chassis.rpc.key_files import SigningKey, TrustedKeys, service_of
from services.chassis.settings import IdentitySettings
from services.chassis.tenancy import Principal, TenantId

LIFETIME: Final = timedelta(seconds=60)
LEEWAY: Final = timedelta(seconds=5)
_CACHED_COUNT_MAX: Final = 10_000
_ALGORITHM: Final = "EdDSA"
KEYS_READ_INTERVAL: Final = timedelta(seconds=10)
"""How old the knowledge of key files is at most, unless the settings say otherwise."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is behind a call: the principal that it is for, and the service that makes it."""

    principal: Principal
    service: str


class TokenSigner:
    """Signs as one service; a principal's token for an audience serves for half of its life."""

    def __init__(
        self,
        service: str,
        private_key: bytes | Path,
        clock: Clock,
        *,
        read_interval: timedelta = KEYS_READ_INTERVAL,
    ) -> None:
        """`private_key` is PEM, or a file of it that is read again every `read_interval`."""
        self.service = service
        self._key = SigningKey(service, private_key, clock, read_interval=read_interval)
        self._clock = clock
        self._cache: OrderedDict[tuple[Principal, str], _Signed] = OrderedDict()

    @staticmethod
    def load(service: str, settings: IdentitySettings, clock: Clock) -> "TokenSigner":
        """Return a signer that follows the service's key file."""
        return TokenSigner(
            service,
            settings.private_key_file,
            clock,
            read_interval=settings.keys_read_interval,
        )

    def token(self, principal: Principal, audience: str) -> str:
        """Return a token for the service that is called, good for at least half of `LIFETIME`."""
        now = self._clock.now()
        key_name, key = self._key.current()
        purpose = (principal, audience)
        cached = self._cache.get(purpose)
        if cached is not None and cached.is_fresh(now) and cached.key_name == key_name:
            return cached.token
        token = jwt.encode(
            {
                "iss": self.service,
                "aud": audience,
                "sub": principal.subject,
                "tenant": principal.tenant,
                "scopes": sorted(principal.scopes),
                "iat": now,
                "exp": now + LIFETIME,
            },
            key,
            algorithm=_ALGORITHM,
            headers={"kid": key_name},
        )
        self._cache[purpose] = _Signed(token, key_name, signed_at=now)
        self._cache.move_to_end(purpose)
        while len(self._cache) > _CACHED_COUNT_MAX:
            self._cache.popitem(last=False)
        return token


class TokenVerifier:
    """Checks tokens for one service, of the services whose public keys it has."""

    def __init__(
        self,
        service: str,
        public_keys: Mapping[str, bytes] | Path,
        clock: Clock,
        *,
        read_interval: timedelta = KEYS_READ_INTERVAL,
    ) -> None:
        """`public_keys` is PEM by service, or a folder of it, read again every `read_interval`."""
        self.service = service
        self._keys = TrustedKeys(public_keys, clock, read_interval=read_interval)
        self._clock = clock
        self._cache: OrderedDict[str, _Verified] = OrderedDict()

    @staticmethod
    def load(service: str, settings: IdentitySettings, clock: Clock) -> "TokenVerifier":
        """Return a verifier that follows the folder with the keys of all trusted services."""
        return TokenVerifier(
            service,
            settings.trusted_keys_folder,
            clock,
            read_interval=settings.keys_read_interval,
        )

    def verify(self, token: str) -> Caller:
        """Return who calls this service; raises Unauthenticated, never saying why."""
        now = self._clock.now()
        found = self._cache.get(token) or self._checked(token)
        if not found.is_in_time(now) or self._keys.find(found.key_name) is None:
            self._cache.pop(token, None)
            raise Unauthenticated
        self._cache[token] = found
        while len(self._cache) > _CACHED_COUNT_MAX:
            self._cache.popitem(last=False)
        return found.caller

    def _checked(self, token: str) -> "_Verified":
        try:
            key_name = str(jwt.get_unverified_header(token).get("kid", ""))
            key = self._keys.find(key_name)
            if key is None:
                raise Unauthenticated
            caller = service_of(key_name)
            claims = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=self.service,
                issuer=caller,
                options={
                    "require": ["exp", "iat", "sub", "tenant", "scopes"],
                    # Exactly one: a second service that a token names could use it here.
                    "strict_aud": True,
                    # Times are compared below, by our clock.
                    "verify_exp": False,
                    "verify_iat": False,
                },
            )
            begins_at = datetime.fromtimestamp(claims["iat"], UTC) - LEEWAY
            expires_at = datetime.fromtimestamp(claims["exp"], UTC) + LEEWAY
            principal = Principal(
                tenant=TenantId(str(claims["tenant"])),
                subject=str(claims["sub"]),
                scopes=frozenset(str(scope) for scope in claims["scopes"]),
            )
        except (jwt.InvalidTokenError, TypeError, ValueError, OverflowError) as error:
            raise Unauthenticated from error
        if expires_at - begins_at > LIFETIME + 2 * LEEWAY:
            raise Unauthenticated
        return _Verified(
            Caller(principal=principal, service=caller), key_name, begins_at, expires_at
        )


class _Signed(NamedTuple):
    """A token to use again."""

    token: str
    key_name: str
    signed_at: datetime

    def is_fresh(self, at: datetime) -> bool:
        """Tell whether it is good for at least half of `LIFETIME`, by everybody's clock."""
        return self.signed_at <= at < self.signed_at + LIFETIME / 2


class _Verified(NamedTuple):
    """What a token says, and what has to be asked again each time."""

    caller: Caller
    key_name: str
    begins_at: datetime
    expires_at: datetime

    def is_in_time(self, at: datetime) -> bool:
        """Tell whether it is good by now, and still."""
        return self.begins_at <= at < self.expires_at
