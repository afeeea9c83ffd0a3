"""What callers see who make, rotate and revoke keys."""

from datetime import timedelta

import httpx
import pytest

from services.api_gateway.domain.roles import SCOPES_BY_ROLE, Role
from services.chassis.tenancy import TenantId
from tests.unit.api_gateway.edge import Edge


def id_of(text: str) -> str:
    return "key_" + text.split("_")[1]


def bearing(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def rotated(client: httpx.AsyncClient, text: str, overlap: str = "PT1H") -> httpx.Response:
    return await client.post(f"/v1/api-keys/{id_of(text)}/rotate", json={"overlap": overlap})


async def test_a_key_of_a_role_tells_it_and_may_do_what_the_role_may() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        made = (await client.post("/v1/api-keys", json={"name": "x", "role": "viewer"})).json()
        told = (await client.get("/v1/whoami", headers=bearing(made["text"]))).json()
    assert (made["key"]["role"], made["key"]["scopes"]) == ("viewer", [])
    assert told["roles"] == ["viewer"]
    assert told["scopes"] == sorted(SCOPES_BY_ROLE[Role.VIEWER])


@pytest.mark.parametrize(
    ("rights", "status"),
    [
        ({}, 422),
        ({"role": "viewer", "scopes": ["jobs:read"]}, 422),
        ({"role": "root"}, 422),
        ({"scopes": ["jobs:fly"]}, 422),
        ({"role": "platform-admin"}, 403),
        ({"scopes": ["tenants:read"]}, 403),
    ],
)
async def test_a_key_needs_rights_that_exist_and_that_its_issuer_has(
    rights: dict[str, object], status: int
) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/api-keys", json={"name": "x", **rights})
    assert answer.status_code == status
    assert len(edge.keys.keys) == 1


@pytest.mark.parametrize("name", ["", "x" * 81, "a\0", "a\nb", "\x1b[2J"])
async def test_a_name_that_is_no_line_of_text_is_refused(name: str) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/api-keys", json={"name": name, "role": "viewer"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "name")
    assert len(edge.keys.keys) == 1


async def test_after_a_rotation_both_keys_act_until_the_overlap_is_over() -> None:
    edge = Edge()
    old = await edge.key("jobs:read", lifetime=timedelta(days=9))
    async with edge.client(key=await edge.key()) as client:
        answer = await rotated(client, old)
        assert answer.status_code == 201
        made = answer.json()
        assert made["key"]["scopes"] == ["jobs:read"]
        assert made["key"]["expires_at"] == "2026-01-10T00:00:00Z"
        assert made["replaced"]["id"] == id_of(old)
        assert made["replaced"]["replaced_by"] == made["key"]["id"]
        assert made["replaced"]["expires_at"] == "2026-01-01T01:00:00Z"

        async def statuses() -> list[int]:
            headers = (bearing(old), bearing(made["text"]))
            return [(await client.get("/v1/jobs", headers=one)).status_code for one in headers]

        assert await statuses() == [200, 200]
        edge.clock.elapsed_s = 3600
        assert await statuses() == [401, 200]


async def test_a_rotation_never_lengthens_the_old_keys_life() -> None:
    edge = Edge()
    old = await edge.key("jobs:read", lifetime=timedelta(minutes=1))
    async with edge.client(key=await edge.key()) as client:
        made = (await rotated(client, old)).json()
    assert made["replaced"]["expires_at"] == "2026-01-01T00:01:00Z"


async def test_whoever_rotates_a_key_may_do_all_that_it_may() -> None:
    edge = Edge()
    administrator = await edge.key()
    async with edge.client(key=await edge.key("keys:write")) as client:
        answer = await rotated(client, administrator)
    assert (answer.status_code, answer.json()["code"]) == (403, "PERMISSION_DENIED")
    assert len(edge.keys.keys) == 2


async def test_what_can_not_be_rotated_is_refused() -> None:
    edge = Edge()
    once, revoked, expired = [await edge.key(lifetime=timedelta(hours=2)) for _ in range(3)]
    foreign = await edge.key(tenant=TenantId("other"))
    async with edge.client(key=await edge.key()) as client:
        assert (await rotated(client, once)).status_code == 201
        await client.delete(f"/v1/api-keys/{id_of(revoked)}")
        refused = [await rotated(client, once), await rotated(client, revoked)]
        edge.clock.elapsed_s = 2 * 3600
        refused.append(await rotated(client, expired))
        assert [answer.status_code for answer in refused] == [409] * 3
        others = [await rotated(client, foreign), await rotated(client, "myk_" + "0" * 26)]
        assert [answer.status_code for answer in others] == [404, 404]
        for overlap in ("-PT1S", "P31D"):
            assert (await rotated(client, once, overlap)).status_code == 422


async def test_a_keys_text_is_shown_once() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        made = await client.post("/v1/api-keys", json={"name": "x", "role": "viewer"})
        secret = made.json()["text"].rsplit("_", 1)[1]
        listed = await client.get("/v1/api-keys")
        again = await rotated(client, made.json()["text"])
    assert secret not in listed.text
    assert "digest" not in listed.text
    assert made.json()["text"] not in again.text


@pytest.mark.parametrize("lifetime", ["-PT1S", "PT0S", "P3660DT1S", "P999999999D"])
async def test_a_lifetime_out_of_bounds_is_refused_by_its_name_and_bounds(lifetime: str) -> None:
    edge = Edge()
    body = {"name": "x", "role": "viewer", "lifetime": lifetime}
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/api-keys", json=body)
        longest = await client.post("/v1/api-keys", json=body | {"lifetime": "P3660D"})
    problem = "must be more than 0 seconds and at most 3660 days"
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_ARGUMENT")
    assert answer.json()["errors"] == [{"field": "lifetime", "problem": problem}]
    assert longest.status_code == 201


async def test_an_overlap_out_of_bounds_is_refused_by_its_name_and_bounds() -> None:
    edge = Edge()
    key = await edge.key()
    async with edge.client(key=key) as client:
        answer = await rotated(client, key, "P31D")
    assert answer.json()["errors"] == [{"field": "overlap", "problem": "must be 0 to 30 days"}]


async def test_a_tenant_has_a_bounded_number_of_keys_in_force() -> None:
    edge = Edge(keys_max=3)
    foreign = await edge.key(tenant=TenantId("other"))
    async with edge.client(key=await edge.key()) as client:

        async def issued(**more: str) -> httpx.Response:
            return await client.post("/v1/api-keys", json={"name": "x", "role": "viewer", **more})

        made = [(await issued(lifetime=life)).json() for life in ("PT1M", "PT1H")]
        refused = await issued()
        assert (refused.status_code, refused.json()["code"]) == (403, "QUOTA_EXCEEDED")
        assert refused.json()["detail"] == "API keys in force: 1 more asked for, 3 of 3 used"

        assert (await rotated(client, made[1]["text"], "PT0S")).status_code == 201
        await client.delete(f"/v1/api-keys/{made[0]['key']['id']}")
        assert (await issued()).status_code == 201
        edge.clock.elapsed_s = 3600  # the rotated one has expired
        assert [(await issued()).status_code for _ in range(2)] == [201, 403]
    async with edge.client(key=foreign) as other:
        made_there = await other.post("/v1/api-keys", json={"name": "x", "role": "viewer"})
        assert made_there.status_code == 201


async def test_a_rotation_with_an_overlap_needs_room_for_both() -> None:
    edge = Edge(keys_max=1)
    key = await edge.key()
    async with edge.client(key=key) as client:
        answer = await rotated(client, key)
    assert (answer.status_code, answer.json()["code"]) == (403, "QUOTA_EXCEEDED")


async def test_keys_in_force_are_listed_before_those_that_have_ended() -> None:
    edge = Edge()
    own = await edge.key()
    lives = (None, timedelta(minutes=1), timedelta(days=1))
    kept, expired, revoked = [await edge.key("logs:read", lifetime=life) for life in lives]
    async with edge.client(key=own) as client:
        await client.delete(f"/v1/api-keys/{id_of(revoked)}")
        edge.clock.elapsed_s = 60
        listed = [key["id"] for key in (await client.get("/v1/api-keys")).json()["keys"]]
    assert set(listed[:2]) == {id_of(own), id_of(kept)}
    assert set(listed[2:]) == {id_of(expired), id_of(revoked)}


async def test_keys_are_shown_page_by_page_and_whole_to_who_asks_for_no_page() -> None:
    edge = Edge()
    own = await edge.key()
    *_, revoked = [await edge.key("logs:read") for _ in range(3)]
    async with edge.client(key=own) as client:
        await client.delete(f"/v1/api-keys/{id_of(revoked)}")
        whole = (await client.get("/v1/api-keys")).json()
        pages, token = [], None
        while token != "":
            params = {"page_size": 3, **({"page_token": token} if token else {})}
            page = (await client.get("/v1/api-keys", params=params)).json()
            pages.append(page["keys"])
            token = page["next_page_token"]
    assert [len(page) for page in pages] == [3, 1]
    assert pages[0] + pages[1] == whole["keys"]
    assert whole["keys"][-1]["id"] == id_of(revoked)
    assert whole["next_page_token"] == ""


@pytest.mark.parametrize(
    "params",
    [
        {"page_size": 0},
        {"page_size": 501},
        {"page_token": "key_" + "0" * 26},
        {"page_token": "gone.key_" + "0" * 26},
        {"page_token": "ended.key_0"},
    ],
)
async def test_what_is_no_page_of_keys_is_refused(params: dict[str, int | str]) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.get("/v1/api-keys", params=params)
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_ARGUMENT")
    assert answer.json()["errors"][0]["field"] in params


async def test_a_key_tells_who_made_it() -> None:
    edge = Edge()
    text = await edge.key()
    platform = await edge.key(*SCOPES_BY_ROLE[Role.PLATFORM_ADMIN])
    async with edge.client(key=text) as client:
        made = (await client.post("/v1/api-keys", json={"name": "x", "role": "viewer"})).json()
        successor = (await rotated(client, made["text"])).json()["key"]
        given = (
            await client.post("/v1/tenants", json={"id": "acme"}, headers=bearing(platform))
        ).json()["key"]
        first = (await client.get("/v1/api-keys", headers=bearing(given))).json()["keys"]
    for key in (made["key"], successor):
        assert (key["created_by"], key["person"]) == (f"key:{id_of(text)}", None)
    assert [key["created_by"] for key in first] == ["platform"]
