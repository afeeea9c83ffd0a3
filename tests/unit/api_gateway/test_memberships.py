"""People whose tenants and roles are the gateway's to know."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

from services.api_gateway.domain.member import Member, Person
from services.api_gateway.domain.roles import Role
from services.api_gateway.domain.token_claims import ClaimRules
from services.api_gateway.entrypoints.rest.app import build_app
from services.api_gateway.use_cases.authenticate_token import AuthenticateToken
from services.api_gateway.use_cases.memberships import Memberships
from services.api_gateway.use_cases.recent import AGE_MAX
from services.chassis.errors import Unauthenticated
from services.chassis.ids import TimeOrderedIds
from services.chassis.tenancy import TenantId
from tests.unit.api_gateway.edge import Edge, client_of

ISSUER = "https://issuer.test"
RULES = ClaimRules("tenant", "roles", True, frozenset({"mfa"}), frozenset())
TENANT = "Modelyard-Tenant"


@dataclass
class FakeIssuer:
    """Knows everybody by the token that is their name; claims a tenant that must not count."""

    more: Mapping[str, object] = field(default_factory=dict)

    async def claims(self, token: str) -> Mapping[str, object]:
        if token == "forged":
            raise Unauthenticated
        return {"sub": token, "tenant": "globex", "roles": ["platform-admin"], **self.more}


def edge_with(**tenants_of: tuple[str, ...]) -> Edge:
    """Return an edge with people who are viewers in tenants."""
    edge = Edge()
    for subject, tenants in tenants_of.items():
        for tenant in tenants:
            give(edge, subject, tenant, Role.VIEWER)
    return edge


def give(edge: Edge, subject: str, tenant: str, *roles: Role, issuer: str = ISSUER) -> None:
    member = Member.added(
        TenantId(tenant),
        Person(issuer, subject),
        frozenset(roles),
        by="key:1",
        at=edge.clock.now(),
    )
    edge.members.members[member.tenant, member.person] = member


def client(edge: Edge, subject: str, **more: object) -> httpx.AsyncClient:
    gateway = edge.gateway()
    memberships = Memberships(edge.members, ISSUER, edge.clock)
    gateway.authenticate.tokens = AuthenticateToken(FakeIssuer(more), RULES, memberships)
    return client_of(build_app(gateway, ids=TimeOrderedIds(edge.clock)), key=subject)


async def test_a_member_of_one_tenant_need_not_name_it_and_may_do_what_the_role_may() -> None:
    edge = edge_with(anna=("acme",))
    async with client(edge, "anna") as anna:
        who = (await anna.get("/v1/whoami")).json()
        named = await anna.get("/v1/whoami", headers={TENANT: "acme"})
        submitted = await anna.post("/v1/jobs", json={})

    assert (who["tenant"], who["subject"], who["roles"]) == ("acme", "user:anna", ["viewer"])
    assert named.json() == who
    assert submitted.status_code == 403


async def test_a_member_of_several_tenants_names_one() -> None:
    edge = edge_with(anna=("acme", "beta"))
    async with client(edge, "anna") as anna:
        unnamed = await anna.get("/v1/whoami")
        named = [
            (await anna.get("/v1/whoami", headers={TENANT: tenant})).json()["tenant"]
            for tenant in ("acme", "beta")
        ]

    assert (unnamed.status_code, unnamed.json()["code"]) == (422, "INVALID_ARGUMENT")
    assert unnamed.json()["detail"].startswith(f"{TENANT}: ")
    assert named == ["acme", "beta"]


async def test_who_never_says_which_tenant_is_limited() -> None:
    edge = edge_with(anna=("acme", "beta"))
    edge.requests_max = 3
    async with client(edge, "anna") as anna:
        statuses = [(await anna.get("/v1/whoami")).status_code for _ in range(5)]

    assert statuses == [422] * 3 + [429] * 2


async def test_a_request_names_one_tenant() -> None:
    edge = edge_with(anna=("acme", "beta"))
    async with client(edge, "anna") as anna:
        twice = await anna.get("/v1/whoami", headers=[(TENANT, "acme"), (TENANT, "beta")])

    assert (twice.status_code, twice.json()["code"]) == (422, "INVALID_ARGUMENT")


async def test_who_is_no_member_is_refused_like_everybody_else() -> None:
    edge = edge_with(anna=("acme",))
    give(edge, "of-another-issuer", "acme", Role.VIEWER, issuer="https://other.test")
    answers = []
    for subject, headers in (
        ("forged", {}),
        ("emil", {}),
        ("of-another-issuer", {}),
        ("anna", {TENANT: "beta"}),  # of which anna is none
        ("anna", {TENANT: "nowhere"}),
        ("anna", {TENANT: "globex"}),  # what the claims say is not looked at
    ):
        async with client(edge, subject) as caller:
            answers.append(await caller.get("/v1/whoami", headers=headers))

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1


async def test_an_administrator_needs_a_second_factor_and_nobody_else_does() -> None:
    edge = Edge()
    give(edge, "fred", "acme", Role.ADMIN)
    async with client(edge, "fred", amr=["pwd"]) as fred:
        assert (await fred.get("/v1/whoami")).status_code == 401
    async with client(edge, "fred", amr=["pwd", "mfa"]) as fred:
        assert (await fred.get("/v1/whoami")).json()["roles"] == ["admin"]


async def test_other_roles_and_a_removal_act_within_two_seconds() -> None:
    edge = edge_with(anna=("acme",))
    async with client(edge, "anna") as anna:
        assert (await anna.get("/v1/whoami")).json()["roles"] == ["viewer"]
        give(edge, "anna", "acme", Role.OPERATOR)
        edge.clock.elapsed_s += AGE_MAX.total_seconds()
        assert (await anna.get("/v1/whoami")).json()["roles"] == ["operator"]
        edge.members.members.clear()
        edge.clock.elapsed_s += AGE_MAX.total_seconds()
        assert (await anna.get("/v1/whoami")).status_code == 401


async def test_a_suspended_tenants_members_only_read() -> None:
    edge = Edge()
    give(edge, "anna", "acme", Role.DEVELOPER)
    acme = await edge.tenants.find(TenantId("acme"))
    assert acme is not None
    edge.tenants.tenants[acme.id] = acme.suspended(reason="unpaid", at=edge.clock.now())
    async with client(edge, "anna") as anna:
        assert (await anna.get("/v1/jobs")).status_code == 200
        refused = await anna.post("/v1/jobs", json={})

    assert (refused.status_code, refused.json()["code"]) == (403, "TENANT_SUSPENDED")
