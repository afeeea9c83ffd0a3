"""Tokens of an issuer: of a real one, and forged ones."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from services.api_gateway.adapters.oidc import IssuerPolicy, OidcIssuer, open_oidc_issuer
from services.api_gateway.bootstrap import claim_rules_of
from services.api_gateway.domain.issuer import TOKEN_ALGORITHMS
from services.api_gateway.settings import OidcSettings
from services.api_gateway.use_cases.authenticate_token import AuthenticateToken
from services.chassis.errors import Unauthenticated, Unavailable
from tests.support.clock import MovedClock
from tests.support.free_port import free_port
from tests.support.issuer import (
    AUDIENCE,
    OwnIssuer,
    id_token,
    own_issuer,
    real_issuer,
)

ANNA = {"sub": "anna", "tenant": "acme", "roles": ["developer"]}
EMIL = {"sub": "emil", "tenant": "acme", "roles": ["admin"], "amr": ["pwd"]}
FRED = {"sub": "fred", "tenant": "acme", "roles": ["admin"], "amr": ["pwd", "mfa"]}


def policy_of(url: str) -> IssuerPolicy:
    return IssuerPolicy(
        issuer=url,
        audience=AUDIENCE,
        keys_url=None,
        algorithms=TOKEN_ALGORITHMS,
        leeway=timedelta(seconds=30),
        token_lifetime_max=timedelta(hours=1),
        keys_read_interval=timedelta(minutes=5),
        keys_kept_max=timedelta(hours=1),
        unknown_key_interval=timedelta(seconds=10),
        fetch_timeout=timedelta(seconds=3),
    )


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
async def issuer() -> AsyncIterator[OwnIssuer]:
    async with own_issuer() as running:
        yield running


@pytest.fixture
async def known(issuer: OwnIssuer, clock: MovedClock) -> AsyncIterator[OidcIssuer]:
    async with open_oidc_issuer(policy_of(issuer.url), clock) as opened:
        yield opened


def claims_of(issuer: OwnIssuer, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {**ANNA, "iss": issuer.url, "aud": AUDIENCE, "iat": now, "exp": now + 600, **changes}
    return {name: value for name, value in claims.items() if value is not None}


def a_token(
    issuer: OwnIssuer,
    *,
    name: str | None = "one",
    key: Any = None,
    algorithm: str = "RS256",
    **changes: Any,
) -> str:
    headers = {} if name is None else {"kid": name}
    return jwt.encode(
        claims_of(issuer, **changes), key or issuer.key, algorithm=algorithm, headers=headers
    )


async def test_tokens_of_a_real_issuer_let_in_and_its_new_key_needs_no_restart(
    clock: MovedClock,
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    rules = claim_rules_of(OidcSettings(issuer=url, audience=AUDIENCE))
    async with open_oidc_issuer(policy_of(url), clock) as opened:
        authenticate = AuthenticateToken(opened, rules)
        with real_issuer(port, [ANNA, EMIL, FRED]):
            old = await asyncio.to_thread(id_token, url, "anna")
            anna = await authenticate(old)
            fred = await authenticate(await asyncio.to_thread(id_token, url, "fred"))
            one_factor = await asyncio.to_thread(id_token, url, "emil")
            others = await asyncio.to_thread(id_token, url, "anna", audience="another")

            assert (anna.tenant, anna.subject) == ("acme", "user:anna")
            assert anna.roles == {"developer"}
            assert fred.roles == {"admin"}
            for refused in (one_factor, others):
                with pytest.raises(Unauthenticated):
                    await authenticate(refused)

        with real_issuer(port, [ANNA]):
            clock.ahead += timedelta(seconds=10)
            new = await asyncio.to_thread(id_token, url, "anna")

            assert await authenticate(new) == anna
            with pytest.raises(Unauthenticated):
                await authenticate(old)


async def test_a_token_says_what_the_issuer_says(issuer: OwnIssuer, known: OidcIssuer) -> None:
    assert (await known.claims(a_token(issuer)))["sub"] == "anna"
    assert (await known.claims(a_token(issuer, name=None)))["sub"] == "anna"
    assert (await known.claims(a_token(issuer, aud=["another", AUDIENCE])))["sub"] == "anna"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://issuer.test"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"sub": None},
        {"exp": None},
        {"iat": None},
        {"exp": "soon"},
        {"exp": True},
        {"exp": 10**20},
    ],
)
async def test_a_token_with_wrong_claims_is_refused(
    issuer: OwnIssuer, known: OidcIssuer, changes: dict[str, Any]
) -> None:
    token = jws(claims_of(issuer, **changes), issuer)

    await is_refused(known, token)


@pytest.mark.parametrize(
    ("changes", "is_taken"),
    [
        ({"exp": -25}, True),
        ({"exp": -35}, False),
        ({"iat": 25}, True),
        ({"iat": 35}, False),
        ({"nbf": 25}, True),
        ({"nbf": 35}, False),
        ({"exp": 3595}, True),
        ({"exp": 3605}, False),
    ],
)
async def test_times_are_compared_with_leeway_and_a_long_life_is_refused(
    issuer: OwnIssuer, known: OidcIssuer, changes: dict[str, Any], is_taken: bool
) -> None:
    now = int(time.time())
    token = a_token(issuer, **{name: now + seconds for name, seconds in changes.items()})

    if is_taken:
        assert (await known.claims(token))["sub"] == "anna"
    else:
        await is_refused(known, token)


async def test_a_token_chooses_neither_key_nor_algorithm(
    issuer: OwnIssuer, known: OidcIssuer
) -> None:
    await known.claims(a_token(issuer))
    public = issuer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = claims_of(issuer)
    stranger = generate_private_key(65537, 2048)
    forged = [
        jwt.encode(claims, "", algorithm="none", headers={"kid": "one"}),
        by_secret(claims, public),
        by_secret(claims, base64.urlsafe_b64decode(f"{issuer.published[0]['n']}==")),
        a_token(issuer, key=stranger),
        a_token(issuer, key=ec.generate_private_key(ec.SECP256R1()), algorithm="ES256"),
        jwt.encode(
            claims,
            stranger,
            algorithm="RS256",
            headers={"kid": "one", "jwk": own_jwk(stranger), "jku": "http://127.0.0.1:1/keys"},
        ),
        jwt.encode(
            claims, issuer.key, algorithm="RS256", headers={"kid": "one", "crit": ["x"], "x": 1}
        ),
        f"{a_token(issuer).rpartition('.')[0]}.",
        "not.a.token",
        "",
        "x" * 10_000,
    ]
    for token in forged:
        await is_refused(known, token)
    assert issuer.fetch_count == 1


async def test_only_the_algorithms_of_the_settings_are_taken(
    issuer: OwnIssuer, clock: MovedClock
) -> None:
    policy = replace(policy_of(issuer.url), algorithms=frozenset({"ES256"}))
    async with open_oidc_issuer(policy, clock) as known:
        await is_refused(known, a_token(issuer))


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_keys_that_are_no_strong_public_keys_for_signatures_are_not_used(
    issuer: OwnIssuer, known: OidcIssuer
) -> None:
    weak = generate_private_key(65537, 1024)
    other = generate_private_key(65537, 2048)
    issuer.publish("weak", weak)
    issuer.publish("for-encryption", other, use="enc")
    issuer.publish("of-another-kind", other, kty="unknown")
    issuer.publish("broken", other, n="!")
    issuer.publish("of-no-algorithm", other, alg=["RS256"])
    issuer.published.append({"kty": "oct", "kid": "secret", "k": "c2VjcmV0" * 8})

    assert await known.claims(a_token(issuer))
    for name, key in (("weak", weak), ("for-encryption", other), ("of-another-kind", other)):
        await is_refused(known, a_token(issuer, name=name, key=key))
    await is_refused(known, by_secret(claims_of(issuer), b"secret" * 8, name="secret"))


async def test_a_key_that_is_published_later_is_fetched_and_one_that_is_withdrawn_refused(
    issuer: OwnIssuer, known: OidcIssuer, clock: MovedClock
) -> None:
    old = a_token(issuer)
    await known.claims(old)
    issuer.published.clear()
    next_key = generate_private_key(65537, 2048)
    issuer.publish("two", next_key)

    assert await known.claims(old)  # within the read interval
    clock.ahead += timedelta(seconds=10)
    assert await known.claims(a_token(issuer, name="two", key=next_key))
    await is_refused(known, old)


async def test_a_withdrawn_key_is_refused_after_the_read_interval(
    issuer: OwnIssuer, known: OidcIssuer, clock: MovedClock
) -> None:
    token = a_token(issuer)
    await known.claims(token)
    issuer.published.clear()

    clock.ahead += timedelta(minutes=5)

    await is_refused(known, token)


async def test_names_of_unknown_keys_make_us_ask_once_in_an_interval(
    issuer: OwnIssuer, known: OidcIssuer, clock: MovedClock
) -> None:
    stranger = generate_private_key(65537, 2048)
    tokens = [a_token(issuer, name=f"key-{number}", key=stranger) for number in range(20)]

    answers = await asyncio.gather(*map(known.claims, tokens), return_exceptions=True)
    assert {type(answer) for answer in answers} == {Unauthenticated}
    assert issuer.fetch_count == 1

    clock.ahead += timedelta(seconds=10)
    for token in tokens:
        await is_refused(known, token)
    assert issuer.fetch_count == 2


async def test_known_keys_go_on_while_the_issuer_is_away_but_not_for_ever(
    issuer: OwnIssuer, known: OidcIssuer, clock: MovedClock
) -> None:
    await known.claims(a_token(issuer))
    issuer.is_away = True

    clock.ahead += timedelta(minutes=6)
    now = int(clock.now().timestamp())
    fresh = a_token(issuer, iat=now, exp=now + 3600)
    assert await known.claims(fresh)
    with pytest.raises(Unavailable):
        await known.claims(a_token(issuer, name="two", iat=now, exp=now + 3600))

    clock.ahead += timedelta(minutes=54)
    with pytest.raises(Unavailable):
        await known.claims(fresh)

    issuer.is_away = False
    clock.ahead += timedelta(seconds=10)
    assert await known.claims(fresh)


@pytest.mark.parametrize(
    "changes",
    [{"issuer": "https://issuer.test"}, {"jwks_uri": "http://issuer.test/keys"}, {"jwks_uri": 1}],
)
async def test_a_discovery_document_that_leads_elsewhere_is_not_followed(
    issuer: OwnIssuer, known: OidcIssuer, changes: dict[str, Any]
) -> None:
    issuer.changes = changes

    with pytest.raises(Unavailable):
        await known.claims(a_token(issuer))


async def test_an_issuer_that_does_not_answer_is_waited_for_with_a_bound(
    clock: MovedClock,
) -> None:
    left = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    async with await asyncio.start_server(never, "127.0.0.1", 0) as silent:
        url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        policy = replace(policy_of(url), fetch_timeout=timedelta(milliseconds=100))
        async with open_oidc_issuer(policy, clock) as known:
            with pytest.raises(Unavailable):
                await known.claims(a_token(OwnIssuer(url=url)))
        await left.wait()


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_settings_with_an_algorithm_that_is_not_asymmetric_do_not_load(algorithm: str) -> None:
    with pytest.raises(ValueError, match="must be some of"):
        OidcSettings(
            issuer="https://issuer.test", audience="x", algorithms=frozenset({algorithm, "RS256"})
        )


async def is_refused(known: OidcIssuer, token: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await known.claims(token)
    assert refused.value.message == Unauthenticated().message


def jws(claims: dict[str, Any], issuer: OwnIssuer) -> str:
    """Return a signed token, whatever is in it."""
    payload = json.dumps(claims).encode()
    return jwt.PyJWS().encode(payload, issuer.key, algorithm="RS256", headers={"kid": "one"})


def by_secret(claims: dict[str, Any], secret: bytes, *, name: str = "one") -> str:
    """Return a token of HMAC; the library itself refuses to take a public key for a secret."""
    header = _part({"alg": "HS256", "typ": "JWT", "kid": name})
    signed = f"{header}.{_part(claims)}"
    digest = hmac.digest(secret, signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def own_jwk(key: RSAPrivateKey) -> dict[str, Any]:
    return dict(RSAAlgorithm.to_jwk(key.public_key(), as_dict=True))


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
