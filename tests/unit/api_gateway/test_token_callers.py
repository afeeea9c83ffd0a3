"""Callers with an issuer's token instead of a key."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx
import pytest
from typing_extensions import override

from services.api_gateway.domain.tenant import Tenant
from services.api_gateway.domain.token_claims import ClaimRules
from services.api_gateway.entrypoints.rest.app import build_app
from services.api_gateway.use_cases.authenticate_token import AuthenticateToken
from services.chassis.errors import Unauthenticated, Unavailable
from services.chassis.ids import TimeOrderedIds
from services.chassis.tenancy import TenantId
from tests.unit.api_gateway.edge import Edge, FakeTenants, client_of

RULES = ClaimRules("tenant", "roles", True, frozenset({"mfa"}), frozenset())
ANNA = {"sub": "anna", "tenant": "acme", "roles": ["viewer"]}


@dataclass
class FakeIssuer:
    """Says what the test put in, by token."""

    said: dict[str, Mapping[str, object]] = field(
        default_factory=lambda: {
            "anna": ANNA,
            "nowhere": {**ANNA, "tenant": "nowhere"},
            "admin": {**ANNA, "roles": ["admin"]},
        }
    )
    is_away: bool = False

    async def claims(self, token: str) -> Mapping[str, object]:
        if self.is_away:
            raise Unavailable("oidc-issuer")
        if token not in self.said:
            raise Unauthenticated
        return self.said[token]


class Acme(FakeTenants):
    """One tenant only."""

    @override
    async def find(self, tenant: TenantId) -> Tenant | None:
        return await FakeTenants.find(self, tenant) if tenant == "acme" else None


@pytest.fixture
def issuer() -> FakeIssuer:
    return FakeIssuer()


def client(issuer: FakeIssuer | None, token: str, *, requests_max: int = 100) -> httpx.AsyncClient:
    edge = Edge(requests_max=requests_max)
    edge.tenants = Acme(edge.clock, edge.keys)
    gateway = edge.gateway()
    if issuer is not None:
        gateway.authenticate.tokens = AuthenticateToken(issuer, RULES)
    return client_of(build_app(gateway, ids=TimeOrderedIds(edge.clock)), key=token)


async def test_a_token_lets_in_with_the_scopes_of_its_roles(issuer: FakeIssuer) -> None:
    async with client(issuer, "anna") as anna:
        who = (await anna.get("/v1/whoami")).json()
        listed = await anna.get("/v1/jobs")
        submitted = await anna.post("/v1/jobs", json={})

    assert (who["tenant"], who["subject"], who["roles"]) == ("acme", "user:anna", ["viewer"])
    assert listed.status_code == 200
    assert submitted.status_code == 403


async def test_all_refusals_read_the_same(issuer: FakeIssuer) -> None:
    answers = []
    for known, token in (
        (issuer, "forged"),
        (issuer, "nowhere"),  # a tenant that does not exist
        (issuer, "admin"),  # without a second factor
        (issuer, "myk_no-key"),
        (None, "anna"),  # no issuer is configured
    ):
        async with client(known, token) as caller:
            answers.append(await caller.get("/v1/jobs"))

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1


async def test_refused_tokens_count_against_their_source(issuer: FakeIssuer) -> None:
    async with client(issuer, "forged", requests_max=3) as caller:
        codes = [(await caller.get("/v1/jobs")).status_code for _ in range(5)]

    assert codes == [401, 401, 401, 429, 429]


async def test_an_issuer_that_is_away_is_no_refusal(issuer: FakeIssuer) -> None:
    issuer.is_away = True
    async with client(issuer, "anna") as anna:
        answer = await anna.get("/v1/jobs")

    assert answer.status_code == 503
