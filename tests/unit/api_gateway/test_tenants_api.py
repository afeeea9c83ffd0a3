"""What administrators do with tenants, and what a suspended tenant's callers see."""

from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from loguru import logger

from services.api_gateway.domain.roles import SCOPES_BY_ROLE, Role
from services.api_gateway.domain.tenant import Plan, Tenant
from services.api_gateway.use_cases.recent import AGE_MAX
from services.chassis.tenancy import TenantId
from tests.unit.api_gateway.edge import TENANT, Edge, a_spec

ACME = TenantId("acme")


async def an_administrator(edge: Edge) -> httpx.AsyncClient:
    return edge.client(key=await edge.key(*SCOPES_BY_ROLE[Role.PLATFORM_ADMIN]))


def with_acme(edge: Edge, **changes: object) -> Tenant:
    tenant = Tenant.created(ACME, Plan(), at=edge.clock.now())
    edge.tenants.tenants[ACME] = replace(tenant, **changes)  # type: ignore[arg-type]
    return edge.tenants.tenants[ACME]


async def test_a_new_tenants_key_opens_it_and_administers_no_other() -> None:
    edge = Edge()
    async with await an_administrator(edge) as client:
        made = await client.post("/v1/tenants", json={"id": "acme", "plan": {"replicas_max": 2}})
        again = await client.post("/v1/tenants", json={"id": "acme"})
    assert made.status_code == 201
    assert made.headers["location"] == "/v1/tenants/acme"
    tenant = made.json()["tenant"]
    assert (tenant["state"], tenant["version"]) == ("ACTIVE", 1)
    assert tenant["plan"]["replicas_max"] == 2
    assert again.status_code == 409
    async with edge.client(key=made.json()["key"]) as theirs:
        assert (await theirs.get("/v1/jobs")).status_code == 200
        for answer in (
            await theirs.get("/v1/tenants"),
            await theirs.get("/v1/tenants/acme"),
            await theirs.post("/v1/tenants", json={"id": "other"}),
            await theirs.post("/v1/tenants/default/suspend", json={"reason": "x"}),
            await theirs.put("/v1/tenants/acme/plan", json={}),
            await theirs.delete("/v1/tenants/acme"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize("name", ["", "Acme", "a_b", "-a", "a" * 41])
async def test_a_name_that_is_no_label_makes_no_tenant(name: str) -> None:
    edge = Edge()
    async with await an_administrator(edge) as client:
        answer = await client.post("/v1/tenants", json={"id": name})
    assert answer.status_code == 422
    assert edge.tenants.tenants == {}


async def test_a_tenant_whose_key_is_lost_gets_another_from_the_platform_alone() -> None:
    edge = Edge()
    async with await an_administrator(edge) as client:
        lost = (await client.post("/v1/tenants", json={"id": "acme"})).json()["key"]
        made = await client.post("/v1/tenants/acme/keys")
        of_nobody = await client.post("/v1/tenants/nobody/keys")
        of_their_own = await client.post(f"/v1/tenants/{TENANT}/keys")
    assert (made.status_code, of_nobody.status_code, of_their_own.status_code) == (201, 404, 409)
    async with edge.client(key=made.json()["key"]) as theirs:
        who = (await theirs.get("/v1/whoami")).json()
        assert (who["tenant"], who["roles"]) == ("acme", ["admin"])
    async with edge.client(key=lost) as theirs:
        assert (await theirs.post("/v1/tenants/acme/keys")).status_code == 403


async def test_the_log_tells_who_changes_tenants_and_keys_and_no_secret() -> None:
    administrator = await an_administrator(Edge())
    told: list[str] = []
    sink = logger.add(told.append, format="{message} {extra}")
    try:
        async with administrator as client:
            subject = (await client.get("/v1/whoami")).json()["subject"]
            texts = [
                (await client.post("/v1/tenants", json={"id": "acme"})).json()["key"],
                (await client.post("/v1/tenants/acme/keys")).json()["key"],
            ]
            await client.post("/v1/tenants/acme/suspend", json={"reason": "unpaid"})
            made = (await client.post("/v1/api-keys", json={"name": "n", "role": "viewer"})).json()
            path = f"/v1/api-keys/{made['key']['id']}"
            rotated = (await client.post(f"{path}/rotate", json={})).json()
            await client.delete(path)
    finally:
        logger.remove(sink)

    for said in ("key given", "tenant changed", "key made", "key rotated", "key revoked"):
        [line] = [line for line in told if line.startswith(said)]
        assert subject in line
    texts += [made["text"], rotated["text"]]
    assert not [line for line in told if any(text in line for text in texts)]


async def test_who_may_suspend_tenants_gets_no_key_to_what_they_have() -> None:
    edge = Edge()
    async with await an_administrator(edge) as client:
        assert (await client.post("/v1/tenants", json={"id": "acme"})).status_code == 201
    known = set(edge.keys.keys)
    async with edge.client(key=await edge.key("tenants:read", "tenants:write")) as biller:
        suspended = await biller.post("/v1/tenants/acme/suspend", json={"reason": "unpaid"})
        refused = await biller.post("/v1/tenants/acme/keys")

    assert suspended.status_code == 200
    assert (refused.status_code, refused.json()["code"]) == (403, "PERMISSION_DENIED")
    assert [key.tenant for key in edge.keys.keys.values() if key.id not in known] == [TENANT]


async def test_a_suspended_tenant_reads_and_does_nothing_else_until_it_is_resumed() -> None:
    edge = Edge()
    with_acme(edge)
    theirs = {"Authorization": f"Bearer {await edge.key(tenant=ACME)}"}
    async with await an_administrator(edge) as client:  # one process, so that it acts at once
        submitted = await client.post("/v1/jobs", json=a_spec(), headers=theirs)
        assert submitted.status_code == 202
        suspended = await client.post("/v1/tenants/acme/suspend", json={"reason": "unpaid"})
        assert suspended.json()["state"] == "SUSPENDED"

        for refused in (
            await client.post("/v1/jobs", json=a_spec(), headers=theirs),
            await client.post("/v2/models/digits/infer", json={}, headers=theirs),
            await client.delete("/v1/deployments/digits", headers=theirs),
        ):
            assert refused.status_code == 403
            assert refused.json()["code"] == "TENANT_SUSPENDED"
            assert "unpaid" in refused.json()["detail"]
        assert (await client.get("/v1/jobs", headers=theirs)).status_code == 200
        assert (await client.post("/v1/jobs", json=a_spec())).status_code == 202  # others go on

        resumed = await client.post("/v1/tenants/acme/resume")
        assert (resumed.json()["state"], resumed.json()["version"]) == ("ACTIVE", 3)
        submitted = await client.post("/v1/jobs", json=a_spec(), headers=theirs)
        assert submitted.status_code == 202


async def test_a_suspension_elsewhere_is_known_within_two_seconds() -> None:
    edge = Edge()
    tenant = with_acme(edge)
    async with edge.client(key=await edge.key(tenant=ACME)) as theirs:
        assert (await theirs.post("/v1/jobs", json=a_spec())).status_code == 202
        edge.tenants.tenants[ACME] = tenant.suspended(reason="unpaid", at=edge.clock.now())
        edge.clock.elapsed_s += AGE_MAX.total_seconds()
        assert (await theirs.post("/v1/jobs", json=a_spec())).status_code == 403


async def test_nobody_suspends_the_tenant_of_their_own_key() -> None:
    edge = Edge()
    async with await an_administrator(edge) as client:
        answer = await client.post(f"/v1/tenants/{TENANT}/suspend", json={"reason": "x"})
    assert (answer.status_code, answer.json()["code"]) == (409, "FAILED_PRECONDITION")


async def test_a_deleted_tenant_reads_until_its_grace_is_over_and_can_be_resumed() -> None:
    edge = Edge()
    with_acme(edge)
    theirs = {"Authorization": f"Bearer {await edge.key(tenant=ACME)}"}
    async with await an_administrator(edge) as client:
        deleted = await client.delete("/v1/tenants/acme")
        assert (deleted.status_code, deleted.json()["state"]) == (202, "DELETING")
        assert deleted.json()["purge_at"] == "2026-01-08T00:00:00Z"
        refused = await client.post("/v1/jobs", json=a_spec(), headers=theirs)
        assert (refused.status_code, refused.json()["code"]) == (403, "TENANT_SUSPENDED")
        assert "deleted" in refused.json()["detail"]
        assert (await client.get("/v1/jobs", headers=theirs)).status_code == 200
        resumed = await client.post("/v1/tenants/acme/resume")
        assert (resumed.json()["state"], resumed.json()["purge_at"]) == ("ACTIVE", None)


async def test_a_purged_tenants_keys_open_nothing_and_its_name_is_not_given_again() -> None:
    edge = Edge()
    tenant = with_acme(edge)
    key = await edge.key(tenant=ACME)
    deleted = tenant.deleted(grace=timedelta(0), at=edge.clock.now())
    edge.tenants.tenants[ACME] = deleted.purged(at=edge.clock.now())
    async with edge.client(key=key) as theirs:
        assert (await theirs.get("/v1/jobs")).status_code == 401
    async with await an_administrator(edge) as client:
        again = await client.post("/v1/tenants", json={"id": "acme"})
        assert again.status_code == 409
        assert (await client.get("/v1/tenants/acme")).json()["state"] == "PURGED"
        assert (await client.delete("/v1/tenants/acme")).json()["state"] == "PURGED"
        for refused in (
            await client.post("/v1/tenants/acme/resume"),
            await client.post("/v1/tenants/acme/suspend", json={"reason": "x"}),
            await client.post("/v1/tenants/acme/keys"),
            await client.put("/v1/tenants/acme/plan", json={}),
        ):
            assert (refused.status_code, refused.json()["code"]) == (409, "FAILED_PRECONDITION")


@pytest.mark.parametrize("grace", ["5", "1:00:00", "-P1D", "P91D", "soon", ""])
async def test_a_grace_is_a_bounded_iso_duration(grace: str) -> None:
    edge = Edge()
    with_acme(edge)
    async with await an_administrator(edge) as client:
        refused = await client.delete("/v1/tenants/acme", params={"grace": grace})
    assert refused.status_code == 422
    assert "grace" in refused.text
    assert edge.tenants.tenants[ACME].is_active


async def test_nobody_deletes_the_tenant_of_their_own_key() -> None:
    edge = Edge()
    async with await an_administrator(edge) as client:
        answer = await client.delete(f"/v1/tenants/{TENANT}")
    assert (answer.status_code, answer.json()["code"]) == (409, "FAILED_PRECONDITION")


async def test_an_unknown_tenant_is_not_found() -> None:
    edge = Edge()
    async with await an_administrator(edge) as client:
        for answer in (
            await client.post("/v1/tenants/nobody/suspend", json={"reason": "x"}),
            await client.post("/v1/tenants/nobody/resume"),
            await client.delete("/v1/tenants/nobody"),
            await client.put("/v1/tenants/nobody/plan", json={}),
        ):
            assert answer.status_code == 404


async def test_a_plans_rate_is_the_tenants_own() -> None:
    edge = Edge()
    with_acme(edge, plan=Plan(requests_max=2))
    async with edge.client(key=await edge.key(tenant=ACME)) as theirs:
        answers = [(await theirs.get("/v1/jobs")).status_code for _ in range(3)]
    assert answers == [200, 200, 429]
    async with edge.client(key=await edge.key()) as others:
        assert [(await others.get("/v1/jobs")).status_code for _ in range(3)] == [200] * 3


async def test_tenants_are_listed_by_name_a_page_at_a_time() -> None:
    edge = Edge()
    async with await an_administrator(edge) as client:
        for name in ("b", "c", "a"):
            await client.post("/v1/tenants", json={"id": name})
        first = (await client.get("/v1/tenants", params={"page_size": 2})).json()
        token = first["next_page_token"]
        second = (await client.get("/v1/tenants", params={"page_token": token})).json()
    assert [each["id"] for each in first["tenants"]] == ["a", "b"]
    assert [each["id"] for each in second["tenants"]] == ["c"]
    assert second["next_page_token"] == ""
