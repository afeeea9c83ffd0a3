"""Tokens of services whose machine's clock is set back, as an administrator or NTP may do."""

from datetime import timedelta
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from services.chassis.errors import Unauthenticated
from services.chassis.rpc.identity import LIFETIME, TokenSigner, TokenVerifier
from services.chassis.tenancy import Principal, TenantId
from tests.support.clock import MovedClock

KEY: Final = Ed25519PrivateKey.generate()
PRIVATE: Final = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC: Final = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
ANNA: Final = Principal(TenantId("acme"), "user:anna", frozenset({"models:read"}))
STEP: Final = timedelta(hours=1)


def test_a_signer_does_not_go_on_with_a_token_of_a_time_that_has_not_come_yet() -> None:
    clock = MovedClock()
    signer = TokenSigner("scheduler", PRIVATE, clock)
    signer.token(ANNA, "model-registry")

    clock.ahead -= STEP
    token = signer.token(ANNA, "model-registry")

    verifier = TokenVerifier("model-registry", {"scheduler": PUBLIC}, clock)
    assert verifier.verify(token).principal == ANNA


def test_a_token_that_was_good_before_is_good_for_no_longer() -> None:
    clock = MovedClock()
    token = TokenSigner("scheduler", PRIVATE, clock).token(ANNA, "model-registry")
    verifier = TokenVerifier("model-registry", {"scheduler": PUBLIC}, clock)
    verifier.verify(token)

    clock.ahead -= STEP
    with pytest.raises(Unauthenticated):
        verifier.verify(token)
    clock.ahead += LIFETIME / 2
    with pytest.raises(Unauthenticated):
        verifier.verify(token)
