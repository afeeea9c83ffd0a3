"""What a route does not know of a request is refused, and named."""

from typing import Any

import pytest

from tests.unit.api_gateway.edge import Edge, a_spec

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/jobs?sate=RUNNING", "sate"),
        ("/v1/jobs?page_size=1&Page_Size=2", "Page_Size"),
        ("/v1/jobs/job_1?verbose", "verbose"),
        ("/v1/jobs/job_1/logs?atempt=1", "atempt"),
        ("/v1/whoami?x=1", "x"),
        ("/v1/tenants/default/members?subject=a", "subject"),
    ],
)
async def test_a_query_that_a_route_does_not_declare_is_refused(path: str, name: str) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.get(path)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"field": name, "problem": "is no parameter of this request"}
    ]


async def test_declared_queries_pass_however_they_are_declared() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answers = [
            await client.get("/v1/jobs?state=RUNNING&state=QUEUED&page_size=2&page_token="),
            await client.get("/v1/jobs/job_1/logs?attempt=1&stream=stdout&limit=3&follow=false"),
            await client.put(
                "/v1/tenants/default/members?subject=ada&issuer=https://issuer.test",
                json={"roles": ["viewer"]},
            ),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]


async def test_who_may_not_enter_is_told_so_before_its_query_is_looked_at() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("jobs:write")) as client:
        assert (await client.get("/v1/jobs?x=1")).status_code == 403


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"name": "a", "name": "b", "image": "i", "command": ["c"]}', "name"),
        (b'{"name": "a", "image": "i", "command": ["c"], "env": {"A": "1", "A": "2"}}', "A"),
        (b'{"inputs": [{"name": "a", "na\\u006de": "a"}]}', "name"),
    ],
)
async def test_a_key_that_a_body_has_twice_is_refused(body: bytes, key: str) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", content=body, headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["code"] == "INVALID_ARGUMENT"
    assert answer.json()["errors"] == [{"field": "body", "problem": f"has the key '{key}' twice"}]
    assert edge.jobs.submitted == []


async def test_a_key_may_come_again_in_another_object() -> None:
    edge = Edge()
    spec = a_spec() | {"inputs": [an_input("a"), an_input("b")]}
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", json=spec)
    assert answer.status_code == 202


async def test_probes_and_the_inference_protocol_take_what_they_get() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answers = [
            await client.get("/livez?exclude=etcd"),
            await client.get("/v2?x=1"),
            await client.get("/v2/health/live?x=1"),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]


def an_input(name: str) -> dict[str, Any]:
    return {"name": name, "digest": f"sha256:{'0' * 64}"}
