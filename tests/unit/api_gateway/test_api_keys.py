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
