"""What a caller is told when a model server refuses a request, or fails with it.

The answers are MLServer's, 1.7.1.
"""

import gzip
import json
from typing import Any

import httpx
import pytest

from services.api_gateway.domain.routing import Endpoint, Route
from services.api_gateway.use_cases.infer import InferenceResponse
from tests.unit.api_gateway.edge import TENANT, Edge

JSON = {"content-type": "application/json"}


async def asked(status: int, body: object, headers: dict[str, str] | None = None) -> httpx.Response:
    """Return the answer to a caller whose model server answers so."""
    edge = Edge()
    edge.routes.apply(Route("dep_1", TENANT, "digits", 1, (Endpoint("rep_1", "a:1"),)))
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    edge.replicas.answer = InferenceResponse(status, headers or JSON, content)
    async with edge.client(key=await edge.key("inference")) as client:
        return await client.post("/v2/models/digits/infer", json={"inputs": []})


def told(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    document = dict(answer.json())
    assert document["status"] == answer.status_code
    assert document["error"] == document["detail"]
    return document


async def test_a_failure_says_that_it_is_the_model_servers_and_where_there_may_be_more() -> None:
    text = {"content-type": "text/plain; charset=utf-8"}
    problem = told(await asked(500, b"Internal Server Error", text))
    assert (problem["status"], problem["code"]) == (502, "MODEL_SERVER_FAILED")
    assert problem["detail"] == (
        "the model server of digits failed with 500: Internal Server Error; "
        "its output may say more: /v1/deployments/digits/logs"
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": "out of\n\x1b[2Jmemory"}, "failed with 503: out of [2Jmemory; "),
        ({"error": "x" * 10_000}, f"failed with 503: {'x' * 500}; "),
        ({"error": {"a": 1}}, "failed with 503: no reason; "),
        ([1], "failed with 503: no reason; "),
        (b"\xff{", "failed with 503: no reason; "),
    ],
)
async def test_a_failures_words_are_passed_on_in_one_bounded_line(body: object, said: str) -> None:
    assert said in told(await asked(503, body))["detail"]


async def test_a_refusal_in_the_protocols_form_keeps_status_and_words() -> None:
    said = "The 'np' codec only supports a single input tensor (0 were received)"
    problem = told(await asked(400, {"error": said}))
    assert (problem["status"], problem["code"]) == (400, "INVALID_ARGUMENT")
    assert problem["errors"] == [{"field": "body", "problem": said}]
    assert problem["detail"] == f"body: {said}"


@pytest.mark.parametrize("is_compressed", [False, True])
async def test_a_refusal_by_fields_names_them(is_compressed: bool) -> None:
    body: Any = {
        "detail": [
            {"type": "enum", "loc": ["body", "inputs", 0, "datatype"], "msg": "No.", "input": "Q"},
            {"type": "json_invalid", "loc": ["body", 1], "msg": "JSON decode error"},
            {"type": "of another", "kind": "altogether"},
            "words",
        ]
    }
    headers = JSON
    if is_compressed:
        body, headers = (
            gzip.compress(json.dumps(body).encode()),
            JSON | {"Content-Encoding": "gzip"},
        )
    problem = told(await asked(422, body, headers))
    assert (problem["status"], problem["code"]) == (422, "INVALID_ARGUMENT")
    assert problem["errors"] == [
        {"field": "inputs[0].datatype", "problem": "No."},
        {"field": "body", "problem": "JSON decode error"},
    ]


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "FAILED_PRECONDITION"), (404, "NOT_FOUND"), (429, "FAILED_PRECONDITION")],
)
async def test_of_a_refusal_without_words_only_the_status_is_told(status: int, code: str) -> None:
    problem = told(await asked(status, b""))
    assert (problem["status"], problem["code"]) == (status, code)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b"none"),
        ("br", b"\x0b"),
        ("gzip", gzip.compress(b'{"error": "%b"}' % (b" " * 9**6))),
    ],
)
async def test_what_can_not_be_read_is_passed_over(coding: str, body: bytes) -> None:
    problem = told(await asked(400, body, JSON | {"content-encoding": coding}))
    assert problem["code"] == "FAILED_PRECONDITION"
