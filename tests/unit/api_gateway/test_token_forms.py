"""A token of any form: what makes no sense is refused, and the issuer is not asked."""

import base64
import json
from datetime import timedelta
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.api_gateway.adapters.oidc import IssuerPolicy, OidcIssuer
from services.chassis.errors import Unauthenticated
from tests.unit.api_gateway.edge import Clock

ISSUER = "https://issuer.test"
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


class Unasked:
    """The way to an issuer that nobody may take."""

    def get(self, url: str, **_: object) -> NoReturn:
        raise AssertionError(f"{url} was asked")


def issuer() -> OidcIssuer:
    policy = IssuerPolicy(
        issuer=ISSUER,
        audience="modelyard",
        keys_url=f"{ISSUER}/keys",
        algorithms=frozenset({"RS256"}),
        leeway=timedelta(seconds=30),
        token_lifetime_max=timedelta(hours=1),
        keys_read_interval=timedelta(minutes=5),
        keys_kept_max=timedelta(hours=1),
        unknown_key_interval=timedelta(seconds=10),
        fetch_timeout=timedelta(seconds=3),
    )
    return OidcIssuer(Unasked(), policy, Clock())  # type: ignore[arg-type]


def token(header: object, claims: object) -> str:
    parts = [json.dumps(part).encode() for part in (header, claims)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in [*parts, b"x"])


@pytest.mark.parametrize("algorithm", [["RS256"], {"RS256": 1}, 256, None, True])
async def test_an_algorithm_that_is_no_text_is_refused(algorithm: object) -> None:
    with pytest.raises(Unauthenticated):
        await issuer().claims(token({"alg": algorithm, "kid": "one"}, {"iss": ISSUER}))


@settings(max_examples=50)
@given(algorithm=ANYTHING, key_id=ANYTHING, more=ANYTHING, claims=ANYTHING)
async def test_whatever_a_token_says_of_itself_it_is_refused(
    algorithm: object, key_id: object, more: object, claims: object
) -> None:
    for header in (more, {"alg": algorithm}, {"alg": "RS256", "kid": key_id, "b64": more}):
        with pytest.raises(Unauthenticated):
            await issuer().claims(token(header, claims))
