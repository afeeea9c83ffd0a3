"""An OpenID Connect issuer: `TokenIssuer`.

Owns: whether the issuer said what a token says. It checks the signature against the issuer's
published keys, issuer, audience and times; every refusal reads the same. What the claims mean is
`domain.token_claims`'s.

Keys are fetched when a token needs them: the first time, when what is known is `keys_read_interval`
old, and for a key that nobody knows, or one without a name that does not fit. One fetch at a time,
at most one in `unknown_key_interval` however many strangers' keys are named, each with a deadline,
behind a breaker. While the issuer is away, known keys go on for `keys_kept_max`.

Always holds: a token chooses neither key nor algorithm. A key is used only with the algorithms of
its own kind, which are asymmetric, so that no public key can serve as a shared secret.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from loguru import logger

from services.api_gateway.domain.issuer import check_issuer_url
from services.chassis.breaker import Breaker
from services.chassis.clock import Clock
from services.chassis.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ModelyardError,
    Unauthenticated,
    Unavailable,
)

_NAME: Final = "oidc-issuer"
_TOKEN_CHARACTERS_MAX: Final = 8192
_DOCUMENT_BYTES_MAX: Final = 256 * 1024
_KEYS_MAX: Final = 50
_RSA_BITS_MIN: Final = 2048
_BY_CURVE: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_OF_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})


@dataclass(frozen=True, slots=True)
class IssuerPolicy:
    """Whom we believe, for how long, and how often we ask."""

    issuer: str
    audience: str
    keys_url: str | None
    """None: where the issuer's discovery document says."""
    algorithms: frozenset[str]
    leeway: timedelta
    token_lifetime_max: timedelta
    keys_read_interval: timedelta
    keys_kept_max: timedelta
    unknown_key_interval: timedelta
    fetch_timeout: timedelta


@dataclass(frozen=True, slots=True)
class _Key:
    """A published key, with what it may be used with."""

    public: Any
    algorithms: frozenset[str]


@dataclass(slots=True)
class _Known:
    """What the issuer published, and when we last asked."""

    keys: Mapping[str, _Key] = field(default_factory=dict)
    read_at_s: float = float("-inf")
    asked_at_s: float = float("-inf")


class OidcIssuer:
    """One issuer, whose keys are cached."""

    def __init__(self, session: aiohttp.ClientSession, policy: IssuerPolicy, clock: Clock) -> None:
        self._session = session
        self._policy = policy
        self._clock = clock
        self._known = _Known()
        self._fetching = asyncio.Lock()
        self._breaker = Breaker(
            _NAME,
            failure_count_max=3,
            window=timedelta(minutes=1),
            reset_after=policy.unknown_key_interval,
            counts=lambda error: isinstance(error, (Unavailable, DeadlineExceeded)),
            monotonic=clock.monotonic,
        )

    async def claims(self, token: str) -> Mapping[str, object]:
        """Return what the issuer says; raises Unauthenticated, Unavailable without its keys."""
        if len(token) > _TOKEN_CHARACTERS_MAX:
            raise Unauthenticated
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise Unauthenticated from error
        algorithm, key_id = header.get("alg"), header.get("kid", "")
        # Before a key is looked for: what can't be accepted makes nobody fetch anything.
        if not isinstance(algorithm, str) or not isinstance(key_id, str):
            raise Unauthenticated
        if algorithm not in self._policy.algorithms or "crit" in header:
            raise Unauthenticated
        if self._claims_another_issuer(token):
            raise Unauthenticated
        key = await self._key(key_id)
        try:
            return self._verified(token, algorithm, key)
        except Unauthenticated:
            if key_id or key is None:
                raise
        # A key without a name may have been replaced by another one without.
        async with self._fetching:
            await self._read_anew(is_needed=False)
        return self._verified(token, algorithm, self._find(key_id))

    def _claims_another_issuer(self, token: str) -> bool:
        try:
            claimed = jwt.decode(token, options={"verify_signature": False})
        except jwt.InvalidTokenError as error:
            raise Unauthenticated from error
        return bool(claimed.get("iss") != self._policy.issuer)

    def _verified(self, token: str, algorithm: str, key: _Key | None) -> Mapping[str, object]:
        policy = self._policy
        if key is None or algorithm not in key.algorithms:
            raise Unauthenticated
        try:
            claims: dict[str, object] = jwt.decode(
                token,
                key.public,
                algorithms=[algorithm],
                audience=policy.audience,
                issuer=policy.issuer,
                options={
                    "require": ["iss", "aud", "sub", "exp", "iat"],
                    # Times are compared below, by our clock.
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            begins_at = max(_instant(claims["iat"]), _instant(claims.get("nbf", claims["iat"])))
            issued_at, ends_at = _instant(claims["iat"]), _instant(claims["exp"])
        except (jwt.InvalidTokenError, TypeError, ValueError, OverflowError, OSError) as error:
            raise Unauthenticated from error
        now = self._clock.now()
        is_in_time = begins_at - policy.leeway <= now < ends_at + policy.leeway
        if not is_in_time or ends_at - issued_at > policy.token_lifetime_max:
            raise Unauthenticated
        return claims

    async def _key(self, key_id: str) -> _Key | None:
        """Return the key of this name, the only one for a token without; None if there is none."""
        found = self._find(key_id)
        if found is not None and (self._is_fresh() or self._fetching.locked()):
            return found
        async with self._fetching:
            if self._find(key_id) is None or not self._is_fresh():
                await self._read_anew(is_needed=found is None)
        return self._find(key_id)

    def _find(self, key_id: str) -> _Key | None:
        keys = self._known.keys
        if self._age_s(self._known.read_at_s) >= self._policy.keys_kept_max.total_seconds():
            return None
        if not key_id and len(keys) == 1:
            return next(iter(keys.values()))
        return keys.get(key_id)

    def _is_fresh(self) -> bool:
        age_s = self._age_s(self._known.read_at_s)
        return age_s < self._policy.keys_read_interval.total_seconds()

    def _age_s(self, instant_s: float) -> float:
        return self._clock.monotonic() - instant_s

    async def _read_anew(self, *, is_needed: bool) -> None:
        """Fetch the keys, unless we asked a moment ago; raises Unavailable where none are known."""
        known = self._known
        is_answered = known.asked_at_s <= known.read_at_s
        if self._age_s(known.asked_at_s) < self._policy.unknown_key_interval.total_seconds():
            if is_needed and not is_answered:
                raise Unavailable(_NAME, retry_after=self._policy.unknown_key_interval)
            return
        known.asked_at_s = self._clock.monotonic()
        try:
            with self._breaker.calling():
                known.keys = await self._fetch()
        except ModelyardError as error:
            logger.warning("issuer's keys can't be fetched", cause=error.message)
            if is_needed:
                raise Unavailable(_NAME, retry_after=self._policy.unknown_key_interval) from error
            return
        known.read_at_s = self._clock.monotonic()

    async def _fetch(self) -> Mapping[str, _Key]:
        try:
            async with asyncio.timeout(self._policy.fetch_timeout.total_seconds()):
                return _keys(await self._document(await self._keys_url()), self._policy.algorithms)
        except TimeoutError as error:
            raise DeadlineExceeded(_NAME) from error
        except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
            raise Unavailable(_NAME) from error

    async def _keys_url(self) -> str:
        if self._policy.keys_url is not None:
            return self._policy.keys_url
        base = self._policy.issuer.removesuffix("/")
        discovered = await self._document(f"{base}/.well-known/openid-configuration")
        url = discovered.get("jwks_uri")
        if discovered.get("issuer") != self._policy.issuer or not isinstance(url, str):
            raise Unavailable(_NAME)
        try:
            return check_issuer_url(url)
        except InvalidArgument as error:
            raise Unavailable(_NAME) from error

    async def _document(self, url: str) -> Mapping[str, object]:
        async with self._session.get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                raise Unavailable(_NAME)
            body = b""
            async for piece in answer.content.iter_chunked(64 * 1024):
                body += piece
                if len(body) > _DOCUMENT_BYTES_MAX:
                    raise Unavailable(_NAME)
        document = json.loads(body)
        if not isinstance(document, dict):
            raise Unavailable(_NAME)
        return document


@asynccontextmanager
async def open_oidc_issuer(policy: IssuerPolicy, clock: Clock) -> AsyncIterator[OidcIssuer]:
    """Open the issuer; its connections close with the context."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield OidcIssuer(session, policy, clock)


def _instant(value: object) -> datetime:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("a time must be a number")
    return datetime.fromtimestamp(value, UTC)


def _keys(document: Mapping[str, object], allowed: frozenset[str]) -> Mapping[str, _Key]:
    """Return the keys that can be used, by their name; the others are other people's."""
    listed = document.get("keys")
    if not isinstance(listed, list) or len(listed) > _KEYS_MAX:
        raise Unavailable(_NAME)
    found: dict[str, _Key] = {}
    for each in listed:
        if not isinstance(each, dict) or each.get("use", "sig") != "sig":
            continue
        try:
            public = jwt.PyJWK.from_dict(each).key
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        algorithms = _algorithms_of(public) & allowed
        if (named := each.get("alg")) is not None:
            algorithms = frozenset(algorithm for algorithm in algorithms if algorithm == named)
        if algorithms:
            found[str(each.get("kid", ""))] = _Key(public, algorithms)
    return found


def _algorithms_of(public: object) -> frozenset[str]:
    """Return what a key of this kind signs with; nothing for one that is no strong public key."""
    match public:
        case RSAPublicKey() if public.key_size >= _RSA_BITS_MIN:
            return _OF_RSA
        case EllipticCurvePublicKey() if public.curve.name in _BY_CURVE:
            return frozenset({_BY_CURVE[public.curve.name]})
        case Ed25519PublicKey():
            return frozenset({"EdDSA"})
        case _:
            return frozenset()
