"""What a route does not know of a request is refused, and named."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.types import Message

from services.api_gateway.domain.scopes import SCOPES
from services.api_gateway.entrypoints.rest.app import build_app
from services.api_gateway.entrypoints.rest.jobs import JobTimeouts
from services.chassis.ids import TimeOrderedIds
from tests.unit.api_gateway.edge import Edge, a_spec

JSON = {"content-type": "application/json"}
A_BODY = json.dumps(a_spec()).encode()


def a_body(field: bytes) -> bytes:
    """Return a job with a field as it is written."""
    name = json.loads(b"{%b}" % field).popitem()[0]
    rest = {key: value for key, value in a_spec().items() if key != name}
    return b"{%b, %b" % (field, json.dumps(rest).encode()[1:])


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


async def test_a_parameter_that_is_taken_once_is_refused_twice_on_every_route() -> None:
    edge = Edge()
    wrong, seen, lists = {}, 0, set()
    async with edge.client(key=await edge.key(*SCOPES)) as client:
        for path, operations in (await client.get("/openapi.json")).json()["paths"].items():
            for verb, operation in operations.items():
                for parameter in operation.get("parameters", []):
                    name, schema = parameter["name"], parameter["schema"]
                    if parameter["in"] != "query" or not path.startswith("/v1/"):
                        continue
                    seen += 1
                    twice = f"{re.sub('{[^}]+}', 'a', path)}?{name}=1&{name}=2"
                    answer = await client.request(verb, twice)
                    is_told = answer.json().get("detail") == f"{name}: is given twice"
                    if schema.get("type") == "array":
                        lists.add(name)
                    if is_told == (schema.get("type") == "array"):
                        wrong[f"{verb} {path} {name}"] = answer.text
    assert wrong == {}
    assert seen > 20
    assert "state" in lists


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
        (b'{"name": "a", "image": "i", "command": ["c"], "env": {"A": "1", "A": "2"}}', "env.A"),
        (b'{"inputs": [{"name": "b"}, {"name": "a", "na\\u006de": "a"}]}', "inputs[1].name"),
        (b'{"%b": 1, "%b": 2}' % (b"x" * 1000, b"x" * 1000), "x" * 256),
    ],
)
async def test_a_key_that_a_body_has_twice_is_refused(body: bytes, key: str) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", content=body, headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["code"] == "INVALID_ARGUMENT"
    assert answer.json()["errors"] == [{"field": key, "problem": "is given twice"}]
    assert edge.jobs.submitted == []


@pytest.mark.parametrize(
    ("body", "field", "problem"),
    [
        (b'{"name": "\xff"}', "body", "must be JSON in UTF-8"),
        (b'{"name": "\xed\xa0\x80"}', "body", "must be JSON in UTF-8"),
        (b"[" * 9_000, "body", "must be JSON; this is nested too deeply"),
        (
            b'{"priority": %b}' % (b"1" * 5_000),
            "body",
            "must be JSON with numbers of at most 4300 digits",
        ),
        (b'{"name": ', "body", "must be JSON"),
        (a_body(b'"name": "\\ud800"'), "name", "must be text"),
        (a_body(b'"command": ["a", "\\udC00"]'), "command[1]", "must be text"),
        (a_body(b'"env": {"\\ud800": "a"}'), "env.\\ud800", "must be text"),
        (a_body(b'"priority": NaN'), "priority", "must be a finite number"),
        (a_body(b'"priority": -1e400'), "priority", "must be a finite number"),
    ],
)
async def test_a_body_that_can_not_be_read_is_told_as_others_are(
    body: bytes, field: str, problem: str
) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", content=body, headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": field, "problem": problem}]
    assert edge.jobs.submitted == []


async def test_characters_in_two_halves_are_text() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        body = a_body(b'"env": {"A": "\\ud83d\\ude00 and \\\\ud800"}')
        answer = await client.post("/v1/jobs", content=body, headers=JSON)
    assert answer.status_code == 202
    [(request, *_)] = edge.jobs.submitted
    assert request.spec.env["A"] == "\U0001f600 and \\ud800"


async def test_a_key_may_come_again_in_another_object() -> None:
    edge = Edge()
    spec = a_spec() | {"inputs": [an_input("a"), an_input("b")]}
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", json=spec)
    assert answer.status_code == 202


async def test_every_route_without_a_body_refuses_one_before_it_does_anything() -> None:
    edge = Edge()
    answers = {}
    async with edge.client(key=await edge.key(*SCOPES)) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
        for path, operations in paths.items():
            for verb, operation in operations.items():
                if path.startswith("/v1/") and "requestBody" not in operation:
                    answers[f"{verb} {path}"] = await client.request(
                        verb, re.sub("{[^}]+}", "a", path), json={"role": "viewer"}
                    )
    assert len(answers) > 25
    assert "post /v1/tenants/{tenant_id}/keys" in answers
    told = {name: answer.json().get("detail") for name, answer in answers.items()}
    assert told == dict.fromkeys(told, "body: this request takes none")


@pytest.mark.parametrize("body", [b"", b"{}", b" {}\r\n"])
async def test_a_body_with_nothing_in_it_passes(body: bytes) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        assert (await client.request("GET", "/v1/whoami", content=body)).status_code == 200
        streamed = await client.request("GET", "/v1/whoami", content=chunks(body))
    assert streamed.status_code == 200


async def test_of_a_body_that_is_not_taken_only_the_beginning_is_read() -> None:
    edge = Edge()
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b" " * 16

    async with edge.client(key=await edge.key()) as client:
        answer = await client.request("GET", "/v1/whoami", content=endless())
    assert answer.status_code == 422
    assert read < 10


async def test_who_goes_amid_a_body_that_is_not_taken_has_nothing_done() -> None:
    answers: list[Message] = []

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answers.append(message)

    edge = Edge()
    headers = {"authorization": f"Bearer {await edge.key()}", "content-length": "2"}
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/whoami",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
    }
    await build_app(edge.gateway(), ids=TimeOrderedIds(edge.clock))(scope, gone, send)
    assert answers[0]["status"] == 422


@pytest.mark.parametrize(
    "said", ["application/x-www-form-urlencoded", "text/plain", "application/jsonp", "json", ""]
)
async def test_a_body_that_is_not_said_to_be_json_is_refused_for_that(said: str) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", content=A_BODY, headers={"content-type": said})
        unsaid = await client.post("/v1/jobs", content=A_BODY)
    assert answer.status_code == unsaid.status_code == 422
    assert answer.json()["detail"] == "content-type: must be application/json"
    assert unsaid.json() == answer.json()
    assert edge.jobs.submitted == []


@pytest.mark.parametrize(
    "said", ["application/json", "Application/JSON ; charset=utf-8", "application/merge-patch+json"]
)
async def test_json_by_any_of_its_names_is_taken(said: str) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", content=A_BODY, headers={"content-type": said})
    assert answer.status_code == 202


async def test_a_body_that_does_not_come_is_missing_whatever_its_type() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", headers={"content-type": "text/plain"})
    assert answer.json()["errors"] == [{"field": "body", "problem": "is missing"}]


async def test_probes_and_the_inference_protocol_take_what_they_get() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answers = [
            await client.get("/livez?exclude=etcd"),
            await client.get("/v2?x=1"),
            await client.get("/v2/health/live?x=1"),
            await client.request("GET", "/livez", content=b"x"),
            await client.request("GET", "/v2", content=b"x"),
        ]
    assert [answer.status_code for answer in answers] == [200] * 5


def an_input(name: str) -> dict[str, Any]:
    return {"name": name, "digest": f"sha256:{'0' * 64}"}


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    for place in range(len(body)):
        yield body[place : place + 1]


def test_a_duration_is_told_as_json_schema_knows_it() -> None:
    told = JobTimeouts.model_validate({"queue": "PT1H13S", "run": "P1DT1H2M", "stop_grace": "PT1S"})
    assert told.model_dump(mode="json") == {
        "queue": "PT1H0M13S",
        "start": None,
        "run": "P1DT1H2M",
        "stop_grace": "PT1S",
    }
