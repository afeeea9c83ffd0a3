"""Changes that say for which version they are: what is refused, and what is answered."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from services.api_gateway.domain.roles import SCOPES_BY_ROLE, Role
from tests.unit.api_gateway.edge import TENANT, Edge

ACME = "/v1/tenants/acme"
MEMBERS = f"/v1/tenants/{TENANT}/members"
ANNA = {"subject": "auth0|12/anna@acme.test"}
SUSPENSION = {"reason": "unpaid"}
CHANGES: dict[str, tuple[str, str, Any]] = {
    "suspend": ("POST", f"{ACME}/suspend", SUSPENSION),
    "delete": ("DELETE", ACME, None),
    "plan": ("PUT", f"{ACME}/plan", {"replicas_max": 2}),
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@asynccontextmanager
async def an_administrator() -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of the platform's; there is a tenant `acme` at version 1."""
    edge = Edge()
    async with edge.client(key=await edge.key(*SCOPES_BY_ROLE[Role.PLATFORM_ADMIN])) as client:
        assert (await client.post("/v1/tenants", json={"id": "acme"})).status_code == 201
        yield client


def at(tag: str) -> dict[str, str]:
    return {"If-Match": tag}


def is_stale(answer: httpx.Response, *, current_version: int | None) -> bool:
    problem = answer.json()
    found = (answer.status_code, problem["code"], problem.get("current_version"))
    return found == (412, "VERSION_MISMATCH", current_version)


async def test_every_answer_that_shows_a_tenant_names_its_version_as_a_tag() -> None:
    async with an_administrator() as client:
        made = await client.post("/v1/tenants", json={"id": "beta"})
        assert made.headers["etag"] == '"1"'
        for method, path, body in [
            *CHANGES.values(),
            ("POST", f"{ACME}/resume", None),
            ("GET", ACME, None),
        ]:
            answer = await client.request(method, path, json=body)
            assert answer.headers["etag"] == f'"{answer.json()["version"]}"'


@every_change
async def test_a_tenant_that_was_changed_meanwhile_is_not_changed(
    change: tuple[str, str, Any],
) -> None:
    method, path, body = change
    async with an_administrator() as client:
        seen = (await client.get(ACME)).headers["etag"]
        other = await client.put(f"{ACME}/plan", json={"replicas_max": 7}, headers=at(seen))
        refused = await client.request(method, path, json=body, headers=at(seen))
        assert (await client.get(ACME)).json() == other.json()
        looked = other.headers["etag"]
        done = await client.request(method, path, json=body, headers=at(looked))
        unsaid = await client.request("POST", f"{ACME}/resume")

    assert is_stale(refused, current_version=2)
    assert refused.json()["detail"] == "tenant acme is at version 2; the change is for version 1"
    assert done.is_success
    assert done.json()["version"] == 3
    assert unsaid.status_code == 200


async def test_a_tenant_that_was_suspended_again_meanwhile_is_not_resumed() -> None:
    async with an_administrator() as client:
        seen = (await client.post(f"{ACME}/suspend", json=SUSPENSION)).headers["etag"]
        await client.post(f"{ACME}/resume")
        await client.post(f"{ACME}/suspend", json={"reason": "an attack"})
        refused = await client.post(f"{ACME}/resume", headers=at(seen))
        assert (await client.get(ACME)).json()["reason"] == "an attack"
    assert is_stale(refused, current_version=4)


@every_change
async def test_a_request_that_is_repeated_since_its_answer_was_lost_is_no_stale_one(
    change: tuple[str, str, Any],
) -> None:
    method, path, body = change
    async with an_administrator() as client:
        first, again = [
            await client.request(method, path, json=body, headers=at('"1"')) for _ in range(2)
        ]
    assert first.is_success
    assert (again.status_code, again.json()) == (first.status_code, first.json())


async def test_a_member_who_was_changed_meanwhile_keeps_the_roles() -> None:
    async with an_administrator() as client:

        async def put(role: str, tag: str | None = None) -> httpx.Response:
            headers = {} if tag is None else at(tag)
            return await client.put(MEMBERS, params=ANNA, json={"roles": [role]}, headers=headers)

        added = await put("viewer")
        changed = await put("operator", added.headers["etag"])
        refused = await put("developer", added.headers["etag"])
        repeated = await put("operator", added.headers["etag"])
        also = await client.delete(MEMBERS, params=ANNA, headers=at(added.headers["etag"]))
        [shown] = (await client.get(MEMBERS)).json()["members"]
        unsaid = await put("developer")
        removed = await client.delete(MEMBERS, params=ANNA, headers=at(unsaid.headers["etag"]))
        again = await client.delete(MEMBERS, params=ANNA, headers=at(unsaid.headers["etag"]))

    assert is_stale(refused, current_version=2)
    assert is_stale(also, current_version=2)
    assert shown == changed.json() == repeated.json()
    assert [each.headers["etag"] for each in (added, changed, unsaid)] == ['"1"', '"2"', '"3"']
    assert (removed.status_code, again.status_code) == (204, 204)


async def test_what_is_meant_for_an_earlier_membership_fits_no_later_one() -> None:
    async with an_administrator() as client:

        async def put(role: str, **headers: str) -> httpx.Response:
            return await client.put(MEMBERS, params=ANNA, json={"roles": [role]}, headers=headers)

        seen = (await put("viewer")).headers["etag"]
        await client.delete(MEMBERS, params=ANNA)
        of_nobody = await put("operator", **at(seen))
        added = await put("developer")
        refused = await put("operator", **at(seen))

    assert is_stale(of_nobody, current_version=None)
    assert "is not there" in of_nobody.json()["detail"]
    assert added.json()["version"] == 2
    assert is_stale(refused, current_version=2)


ALIAS = "/v1/models/digits/aliases/champion"


async def test_an_aliass_answers_name_its_revision_as_a_tag() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("models:write", "models:read")) as client:
        shown = await client.get(ALIAS)
        moved = await client.put(ALIAS, json={"version": 2})
    assert shown.headers["etag"] == '"4"'
    assert moved.headers["etag"] == '"5"'
    assert moved.json()["alias_revisions"] == {"champion": 5}


@pytest.mark.parametrize(("method", "body"), [("PUT", {"version": 2}), ("DELETE", None)])
async def test_an_aliass_change_is_for_the_revision_that_it_names(method: str, body: Any) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("models:write")) as client:
        unsaid = await client.request(method, ALIAS, json=body)
        said = await client.request(method, ALIAS, json=body, headers=at('"4"'))
        stale = await client.request(method, ALIAS, json=body, headers=at('"3"'))
        malformed = await client.request(method, ALIAS, json=body, headers=at("*"))
    assert (unsaid.status_code, said.status_code, malformed.status_code) == (200, 200, 422)
    assert [request.if_revision for request in edge.models.changed] == [0, 4]
    assert is_stale(stale, current_version=4)
    assert stale.json()["detail"] == (
        "alias digits@champion is at revision 4; the change is for revision 3"
    )


async def test_a_deployments_answers_name_its_version_as_a_tag() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("deployments:write", "deployments:read")) as client:
        answers = [
            await client.post(
                "/v1/deployments", json={"name": "digits", "model": "models:/digits/1"}
            ),
            await client.get("/v1/deployments/digits"),
            await client.delete("/v1/deployments/digits"),
        ]
    assert [answer.headers["etag"] for answer in answers] == ['"2"', '"2"', '"3"']
    assert [answer.json()["version"] for answer in answers] == [2, 2, 3]


async def test_a_deployments_deletion_is_for_the_version_that_it_names() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("deployments:write")) as client:
        unsaid = await client.delete("/v1/deployments/digits")
        said = await client.delete("/v1/deployments/digits", headers=at('"2"'))
        stale = await client.delete("/v1/deployments/digits", headers=at('"1"'))
        malformed = await client.delete("/v1/deployments/digits", headers=at('W/"1"'))
    assert (unsaid.status_code, said.status_code, malformed.status_code) == (202, 202, 422)
    assert [request.if_version for request in edge.deployments.deleted] == [0, 2]
    assert is_stale(stale, current_version=2)


@pytest.mark.parametrize("tag", ["1", "*", 'W/"1"', '"1", "2"', '"0"', '"01"', '""', '"x"'])
async def test_what_is_no_tag_of_ours_is_refused_and_the_header_named(tag: str) -> None:
    async with an_administrator() as client:
        answers = [
            await client.put(f"{ACME}/plan", json={}, headers=at(tag)),
            await client.put(MEMBERS, params=ANNA, json={"roles": ["viewer"]}, headers=at(tag)),
        ]
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_ARGUMENT")
        assert answer.json()["errors"][0]["field"] == "If-Match"


async def test_the_description_tells_of_tags() -> None:
    async with Edge().client() as anybody:
        paths = (await anybody.get("/openapi.json")).json()["paths"]

    described = {
        f"{method} {path}": operation for path in paths for method, operation in paths[path].items()
    }
    headers = {
        name: each["schema"]
        for name, operation in described.items()
        for each in operation.get("parameters", ())
        if each["name"] == "If-Match"
    }
    giving = {
        name
        for name, operation in described.items()
        if any("ETag" in answer.get("headers", ()) for answer in operation["responses"].values())
    }
    patterns = {each["anyOf"][0]["pattern"] for each in headers.values()}
    assert patterns == {'^"[1-9][0-9]{0,14}"$'}
    changes = {f"post /v1/tenants/{{tenant_id}}/{what}" for what in ("suspend", "resume")}
    changes |= {"put /v1/tenants/{tenant_id}/plan", "delete /v1/tenants/{tenant_id}"}
    members = "/v1/tenants/{tenant_id}/members"
    alias, deployment = "/v1/models/{name}/aliases/{alias}", "/v1/deployments/{deployment}"
    changes |= {f"put {members}", f"put {alias}", f"delete {deployment}"}
    assert set(headers) == changes | {f"delete {members}", f"delete {alias}"}
    assert giving == changes | {
        "post /v1/tenants",
        "get /v1/tenants/{tenant_id}",
        f"get {alias}",
        "post /v1/deployments",
        f"get {deployment}",
    }
