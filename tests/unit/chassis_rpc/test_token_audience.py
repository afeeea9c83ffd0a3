"""Whom a token is for: the one service that is called with it."""

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from services.chassis.clock import SystemClock
from services.chassis.errors import Unauthenticated
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.tenancy import Principal, TenantId

SERVICES = ("api-gateway", "log-collector", "model-registry", "scheduler")
KEY = Ed25519PrivateKey.generate()
PRIVATE = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
ACME = TenantId("acme")
ANNA = Principal(ACME, "user:anna", frozenset({"logs:read", "models:write"}))
BERT = Principal(ACME, "user:bert", ANNA.scopes)


def a_signer() -> TokenSigner:
    return TokenSigner("scheduler", PRIVATE, SystemClock())


def verifier_of(service: str) -> TokenVerifier:
    return TokenVerifier(service, {"scheduler": PUBLIC}, SystemClock())


@pytest.mark.parametrize(
    "principal",
    [
        ANNA,
        Principal(TenantId(""), "scheduler", frozenset({"tenants:follow"})),
        Principal(ACME, "attempt:1", frozenset({"artifacts:write"})),
    ],
    ids=["person", "service itself", "attempt"],
)
@pytest.mark.parametrize("audience", SERVICES)
def test_a_token_is_good_for_the_service_that_is_called_alone(
    audience: str, principal: Principal
) -> None:
    token = a_signer().token(principal, audience)

    assert verifier_of(audience).verify(token).principal == principal
    for other in set(SERVICES) - {audience}:
        with pytest.raises(Unauthenticated):
            verifier_of(other).verify(token)


def test_a_refusal_does_not_tell_that_the_token_is_for_another() -> None:
    refusals = []
    for token in (a_signer().token(ANNA, "log-collector"), "not.a.token"):
        with pytest.raises(Unauthenticated) as refused:
            verifier_of("model-registry").verify(token)
        refusals.append((refused.value.message, refused.value.detail))

    assert refusals[0] == refusals[1]


@pytest.mark.parametrize(
    "audience",
    [
        None,
        "",
        "modelyard",
        "model-registry ",
        ["model-registry"],
        ["log-collector", "model-registry"],
    ],
    ids=["none", "empty", "all", "alike", "list", "two"],
)
def test_a_token_without_exactly_one_audience_is_refused(audience: str | list[str] | None) -> None:
    good = a_signer().token(ANNA, "model-registry")
    claims = jwt.decode(good, options={"verify_signature": False}) | {"aud": audience}
    if audience is None:
        del claims["aud"]
    header = {"kid": jwt.get_unverified_header(good)["kid"]}

    with pytest.raises(Unauthenticated):
        verifier_of("model-registry").verify(
            jwt.encode(claims, PRIVATE, algorithm="EdDSA", headers=header)
        )


def test_a_signer_keeps_a_token_for_each_principal_and_audience() -> None:
    signer = a_signer()
    uses = [(who, audience) for who in (ANNA, BERT) for audience in SERVICES]

    tokens = [signer.token(*use) for use in uses]

    assert len(set(tokens)) == len(uses)
    assert [signer.token(*use) for use in reversed(uses)] == tokens[::-1]
