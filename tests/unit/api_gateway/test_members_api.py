"""Who may decide about members, and what is refused."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from services.api_gateway.domain.member import MEMBERS_MAX, Person
from services.api_gateway.domain.roles import SCOPES_BY_ROLE, Role
from services.api_gateway.domain.tenant import Plan, Tenant
from services.chassis.tenancy import TenantId
from tests.unit.api_gateway.edge import TENANT, Edge

ACME = TenantId("acme")
OWN = f"/v1/tenants/{TENANT}/members"
THEIRS = f"/v1/tenants/{ACME}/members"
ANNA = {"subject": "auth0|12/anna@acme.test"}


async def as_role(edge: Edge, role: Role, tenant: TenantId = TENANT) -> httpx.AsyncClient:
    return edge.client(key=await edge.key(*SCOPES_BY_ROLE[role], tenant=tenant))


def roles(*names: str) -> dict[str, Any]:
    return {"roles": list(names)}


async def test_a_member_is_added_changed_listed_and_removed() -> None:
    edge = Edge()
    async with await as_role(edge, Role.ADMIN) as admin:
        added = await admin.put(OWN, params=ANNA, json=roles("viewer"))
        again = await admin.put(OWN, params=ANNA, json=roles("viewer", "viewer"))
        changed = await admin.put(OWN, params=ANNA, json=roles("operator", "developer"))
        listed = await admin.get(OWN)
        removed = await admin.delete(OWN, params=ANNA)
        again_removed = await admin.delete(OWN, params=ANNA)

    assert (added.status_code, added.json()) == (200, again.json())
    assert added.json()["subject"] == ANNA["subject"]
    assert added.json()["issuer"] == edge.issuer
    assert (changed.json()["roles"], changed.json()["version"]) == (["developer", "operator"], 2)
    assert listed.json() == {"members": [changed.json()], "next_page_token": ""}
    assert (removed.status_code, again_removed.status_code) == (204, 204)
    assert edge.members.members == {}


async def test_another_tenants_members_are_the_platforms_administrators_alone() -> None:
    edge = Edge()
    async with await as_role(edge, Role.ADMIN) as admin:
        for path in (THEIRS, "/v1/tenants/nobody/members"):
            for answer in (
                await admin.get(path),
                await admin.put(path, params=ANNA, json=roles("viewer")),
                await admin.delete(path, params=ANNA),
            ):
                assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    async with await as_role(edge, Role.PLATFORM_ADMIN) as platform:
        assert (await platform.put(THEIRS, params=ANNA, json=roles("admin"))).status_code == 200
        assert len((await platform.get(THEIRS)).json()["members"]) == 1
        assert (await platform.delete(THEIRS, params=ANNA)).status_code == 204


@pytest.mark.parametrize("role", [Role.VIEWER, Role.DEVELOPER, Role.OPERATOR])
async def test_who_administers_no_tenant_decides_about_no_member(role: Role) -> None:
    edge = Edge()
    async with await as_role(edge, role) as caller:
        for answer in (
            await caller.get(OWN),
            await caller.put(OWN, params=ANNA, json=roles("viewer")),
            await caller.delete(OWN, params=ANNA),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "PERMISSION_DENIED")


async def test_nobody_gives_a_role_that_may_do_more_than_they_may() -> None:
    edge = Edge()
    async with await as_role(edge, Role.ADMIN) as admin:
        refused = await admin.put(OWN, params=ANNA, json=roles("viewer", "platform-admin"))
    async with edge.client(key=await edge.key("members:write")) as manager:
        also = await manager.put(OWN, params=ANNA, json=roles("viewer"))

    assert {refused.status_code, also.status_code} == {403}
    assert "nodes:write" in refused.json()["detail"]
    assert edge.members.members == {}


ADMINISTRATORS = [("admin",), ("platform-admin",), ("viewer", "admin")]


@pytest.mark.parametrize("names", ADMINISTRATORS)
async def test_the_last_administrator_of_a_tenant_stays_one(names: tuple[str, ...]) -> None:
    edge = Edge()
    bob = {"subject": "bob"}
    async with await as_role(edge, Role.PLATFORM_ADMIN) as platform:
        await platform.put(OWN, params=ANNA, json=roles(*names))
    async with await as_role(edge, Role.ADMIN) as admin:
        await admin.put(OWN, params=bob, json=roles("operator"))
        removed = await admin.delete(OWN, params=ANNA)
        demoted = await admin.put(OWN, params=ANNA, json=roles("operator"))
        for refused, field in ((removed, "subject"), (demoted, "roles")):
            problem = refused.json()
            assert (refused.status_code, problem["code"]) == (409, "FAILED_PRECONDITION")
            assert "last administrator" in problem["detail"]
            assert [each["field"] for each in problem["errors"]] == [field]
        shown = (await admin.get(OWN)).json()["members"]
        assert {each["subject"]: each["version"] for each in shown} == {
            ANNA["subject"]: 1,
            "bob": 1,
        }

        # Another role with which she still administers, and a second administrator, are no end.
        assert (await admin.put(OWN, params=ANNA, json=roles("admin"))).status_code == 200
        assert (await admin.put(OWN, params=bob, json=roles("admin"))).status_code == 200
        assert (await admin.delete(OWN, params=ANNA)).status_code == 204
        assert (await admin.delete(OWN, params=bob)).status_code == 409


async def test_the_platforms_administrators_remove_a_tenants_last_one() -> None:
    edge = Edge()
    async with await as_role(edge, Role.PLATFORM_ADMIN) as platform:
        for subject in ("anna", "bob"):
            await platform.put(THEIRS, params={"subject": subject}, json=roles("admin"))
        demoted = await platform.put(THEIRS, params={"subject": "bob"}, json=roles("viewer"))
        removed = await platform.delete(THEIRS, params={"subject": "anna"})
        left = (await platform.get(THEIRS)).json()["members"]

    assert (demoted.status_code, removed.status_code) == (200, 204)
    assert [each["roles"] for each in left] == [["viewer"]]


@pytest.mark.parametrize(
    ("query", "body", "field"),
    [
        ({}, roles("viewer"), "subject"),
        ({"subject": ""}, roles("viewer"), "subject"),
        ({"subject": "a\nb"}, roles("viewer"), "subject"),
        ({"subject": "x" * 201}, roles("viewer"), "subject"),
        (ANNA | {"issuer": "http://issuer.test"}, roles("viewer"), "issuer"),
        (ANNA | {"issuer": "https://["}, roles("viewer"), "issuer"),
        (ANNA, {}, "roles"),
        (ANNA, roles(), "roles"),
        (ANNA, roles("viewer", "root"), "roles[1]"),
        (ANNA, roles(*["viewer"] * 6), "roles"),
        (ANNA, roles("viewer") | {"version": 7}, "version"),
    ],
)
async def test_what_is_no_member_is_refused_and_the_field_named(
    query: dict[str, str], body: dict[str, Any], field: str
) -> None:
    edge = Edge()
    async with await as_role(edge, Role.ADMIN) as admin:
        refused = await admin.put(OWN, params=query, json=body)

    assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_ARGUMENT")
    assert refused.json()["detail"].startswith(f"{field}: ")


async def test_without_an_issuer_of_the_platforms_one_must_be_named() -> None:
    edge = Edge(issuer=None)
    other = ANNA | {"issuer": "https://other.test"}
    async with await as_role(edge, Role.ADMIN) as admin:
        refused = await admin.put(OWN, params=ANNA, json=roles("viewer"))
        added = await admin.put(OWN, params=other, json=roles("viewer"))

    assert refused.status_code == 422
    assert refused.json()["detail"] == "issuer: must be given: the gateway has no issuer set"
    assert added.json()["issuer"] == "https://other.test"


async def test_a_tenant_has_a_bounded_number_of_members() -> None:
    edge = Edge(members_max=2)
    async with await as_role(edge, Role.ADMIN) as admin:
        for subject in ("a", "b", "a"):
            added = await admin.put(OWN, params={"subject": subject}, json=roles("viewer"))
            assert added.status_code == 200
        refused = await admin.put(OWN, params={"subject": "c"}, json=roles("viewer"))

    assert (refused.status_code, refused.json()["code"]) == (403, "QUOTA_EXCEEDED")
    assert MEMBERS_MAX == 10_000


async def test_a_deleted_tenant_gets_no_members() -> None:
    edge = Edge()
    now = edge.clock.now()
    acme = Tenant.created(ACME, Plan(), at=now).deleted(grace=timedelta(0), at=now)
    edge.tenants.tenants[ACME] = acme.purged(at=now)
    async with await as_role(edge, Role.PLATFORM_ADMIN) as platform:
        refused = await platform.put(THEIRS, params=ANNA, json=roles("viewer"))
        assert (await platform.get(THEIRS)).json()["members"] == []

    assert (refused.status_code, refused.json()["code"]) == (409, "FAILED_PRECONDITION")


async def test_members_are_listed_a_page_at_a_time() -> None:
    edge = Edge()
    names = ["a", "b/ü", "c"]
    async with await as_role(edge, Role.ADMIN) as admin:
        for subject in reversed(names):
            await admin.put(OWN, params={"subject": subject}, json=roles("viewer"))
        first = (await admin.get(OWN, params={"page_size": 2})).json()
        rest = (await admin.get(OWN, params={"page_token": first["next_page_token"]})).json()

    shown = [member["subject"] for member in [*first["members"], *rest["members"]]]
    assert (shown, rest["next_page_token"]) == (names, "")


@pytest.mark.parametrize("token", ["x", "?", "é", "W10=", "aHR0cHM6Ly9pc3N1ZXIudGVzdA==", "/" * 9])
async def test_a_page_token_that_nobody_gave_out_is_refused(token: str) -> None:
    edge = Edge()
    async with await as_role(edge, Role.ADMIN) as admin:
        refused = await admin.get(OWN, params={"page_token": token})

    assert refused.status_code == 422
    assert "page_token" in refused.json()["detail"]


async def test_a_key_acts_for_its_own_tenant_whatever_the_header_says() -> None:
    edge = Edge()
    async with await as_role(edge, Role.ADMIN) as admin:
        named = {
            name: (await admin.get("/v1/whoami", headers={"Modelyard-Tenant": name})).status_code
            for name in (TENANT, ACME, "No Tenant", "")
        }

    assert named == {TENANT: 200, ACME: 401, "No Tenant": 422, "": 422}
    assert (await edge.members.find_members(Person("i", "s"), tenant=None, limit=1)) == []


async def test_the_description_tells_of_the_header() -> None:
    async with Edge().client() as anybody:
        described = (await anybody.get("/openapi.json")).json()

    schemes = described["components"]["securitySchemes"]
    assert "Modelyard-Tenant" in schemes["ApiKey"]["description"]
