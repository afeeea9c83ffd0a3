"""Refusals of fields, in words for people."""

from collections.abc import Iterator
from typing import Any

import pytest

from services.api_gateway.entrypoints.rest.words import PATTERNS, problem_in_words
from services.chassis.errors import InvalidArgument, QuotaExceeded
from tests.unit.api_gateway.edge import Edge, FakeJobs, a_spec

DURATION = "must be an ISO 8601 duration, such as PT5M"


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"name": None}, "name", "must be text"),
        ({"command": "true"}, "command", "must be a list"),
        ({"command": []}, "command", "must have at least 1 entry"),
        ({"env": {"1A": "x"}}, "env.1A", "such as LEARNING_RATE"),
        ({"source_digest": "abc"}, "source_digest", "must be sha256: and 64 of 0-9 and a-f"),
        ({"timeouts": {"run": "5m"}}, "timeouts.run", DURATION),
        ({"timeouts": {"run": 5}}, "timeouts.run", DURATION),
        ({"timeouts": {"run": "P1000000000D"}}, "timeouts.run", "is too long a time"),
        ({"timeouts": {"run": "PT99999999999999999999S"}}, "timeouts.run", "is too long a time"),
        (
            {"timeouts": {"queue": "P40D"}},
            "timeouts.queue",
            "must be at most 30 days; 40 days was asked for",
        ),
        (
            {"timeouts": {"start": "PT0S"}},
            "timeouts.start",
            "must be at least 1 s; 0 s was asked for",
        ),
        (
            {"timeouts": {"stop_grace": "PT1H30M"}},
            "timeouts.stop_grace",
            "must be at most 10 min; 1 h 30 min was asked for",
        ),
        (
            {"resources": {"memory_bytes": 1 << 51}},
            "resources.memory_bytes",
            "must be at most 1 PiB; 2 PiB was asked for",
        ),
        ({"retries": {"count_max": "x"}}, "retries.count_max", "must be a whole number"),
        (
            {"retries": {"reasons": ["start"]}},
            "retries.reasons[0]",
            "must be killed, out_of_memory, outputs or run_timeout",
        ),
        ({"priority": 101}, "priority", "must be at most 100; 101 was asked for"),
        ({"resources": []}, "resources", "must be an object"),
        ({"colour": "red"}, "colour", "is no field of this request"),
    ],
)
async def test_what_is_wrong_is_told_with_what_is_allowed(
    changes: dict[str, Any], field: str, words: str
) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", json=a_spec() | changes)

    [error] = answer.json()["errors"]
    assert error["field"] == field
    assert words in error["problem"]
    assert answer.json()["detail"] == f"{field}: {error['problem']}"


@pytest.mark.parametrize(
    ("told", "field"),
    [
        ("spec.outputs[0].path", "outputs[0].path"),
        ("spec.env.spec.A", "env.spec.A"),
        ("page.page_token", "page_token"),
        ("files[1].path", "files[1].path"),
        ("specific", "specific"),
    ],
)
async def test_an_owners_field_is_told_by_its_name_in_the_request(told: str, field: str) -> None:
    edge = Edge(jobs=FakeJobs(error=InvalidArgument(told, "is wrong")))
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", json=a_spec())

    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": field, "problem": "is wrong"}]
    assert answer.json()["detail"] == f"{field}: is wrong"


async def test_an_owners_sentence_that_names_no_field_stays() -> None:
    used_up = QuotaExceeded("replicas", limit=1, used=1, field="spec.replica_count")
    edge = Edge(jobs=FakeJobs(error=used_up))
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", json=a_spec())

    assert answer.status_code == 403
    assert answer.json()["errors"][0]["field"] == "replica_count"
    assert answer.json()["detail"] == used_up.message


async def test_a_wrong_key_that_looks_like_an_owners_field_is_told_as_it_is() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", json=a_spec() | {"spec.name": "x"})

    assert answer.json()["errors"] == [
        {"field": "spec.name", "problem": "is no field of this request"}
    ]


@pytest.mark.parametrize(
    ("labels", "field", "words"),
    [
        (["team"], "label[0]", "must be name=value"),
        (["a=1", "Team=x"], "label[1]", "such as team=vision"),
        (["a=" + "x" * 257], "label[0]", "at most 256 characters"),
        (["a=1", "a=2"], "label[1]", "a is given twice"),
        (["a=\0"], "label[0]", "must have printable characters only"),
        ([f"a{number}=" for number in range(33)], "label", "must have at most 32 entries"),
    ],
)
async def test_labels_that_no_job_can_have_are_not_looked_for(
    labels: list[str], field: str, words: str
) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.get("/v1/jobs", params={"label": labels})

    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["field"] == field
    assert words in error["problem"]
    assert edge.jobs.listed == []


async def test_a_missing_field_and_a_body_that_is_none_are_told() -> None:
    edge = Edge()
    spec = a_spec()
    del spec["image"]
    async with edge.client(key=await edge.key()) as client:
        missing = await client.post("/v1/jobs", json=spec)
        broken = await client.post("/v1/jobs", content=b"{", headers=JSON)
        path = await client.get("/v1/jobs/No.Id")
    assert missing.json()["errors"] == [{"field": "image", "problem": "is missing"}]
    assert broken.json()["errors"] == [{"field": "body", "problem": "must be JSON"}]
    assert path.json()["detail"].startswith("job_id: must be an id or a name")


async def test_each_pattern_that_the_api_describes_has_words() -> None:
    edge = Edge()
    async with edge.client() as client:
        described = (await client.get("/openapi.json")).json()
    found = set(patterns_in(described)) - {NARROWER}
    assert found <= PATTERNS.keys()
    assert all(words.startswith("must ") for words in PATTERNS.values())


def test_an_error_without_words_of_ours_keeps_its_own() -> None:
    assert problem_in_words({"type": "new_in_pydantic", "msg": "is new"}) == "is new"
    unknown = {"type": "string_pattern_mismatch", "msg": "^x$", "ctx": {"pattern": "^x$"}}
    assert "^" not in problem_in_words(unknown)


JSON = {"Content-Type": "application/json"}
NARROWER = "^[0-9]*[A-Za-z_-][A-Za-z0-9_-]*$"
"""Described, but checked by the registry."""


def patterns_in(described: Any) -> Iterator[str]:
    if isinstance(described, dict):
        for name, value in described.items():
            if name == "pattern" and isinstance(value, str):
                yield value
            if name == "patternProperties":
                yield from value
            yield from patterns_in(value)
    elif isinstance(described, list):
        for value in described:
            yield from patterns_in(value)
