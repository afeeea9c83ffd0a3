"""What the client library sends, repeats and gives back."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from modelyard.client import (
    ApiError,
    Client,
    ConnectionFailed,
    DeploymentSpec,
    InvalidId,
    JobChanges,
    JobRetries,
    JobSpec,
    JobTimeouts,
    Plan,
    Resources,
)
from pydantic import BaseModel, ValidationError

JOB = {
    "id": "job_1",
    "spec": {"name": "n", "image": "i", "command": ["true"]},
    "state": "QUEUED",
    "reason": "",
    "version": 1,
    "attempt_number": 0,
    "attempt_id": "",
    "node_id": "",
    "progress": None,
    "failure": None,
    "created_at": "2026-01-01T00:00:00Z",
    "started_at": None,
    "ended_at": None,
    "trace_id": "",
    "a_field_of_a_newer_server": 1,
}
SPEC = JobSpec(name="n", image="i", command=["true"])


def a_client(
    handler: Callable[[httpx.Request], httpx.Response], pauses: list[float] | None = None
) -> Client:
    return Client(
        "http://edge",
        "myk_x",
        transport=httpx.MockTransport(handler),
        sleep=([] if pauses is None else pauses).append,
    )


@pytest.mark.parametrize(
    ("asked", "given", "problems"),
    [
        (JobSpec, {"array": 12}, {"array": "is no field of this request; array_size is one"}),
        (JobSpec, {"colour": []}, {"colour": "is no field of this request"}),
        (
            JobSpec,
            {"resources": {"memory": 1}},
            {"resources.memory": "is no field of this request; memory_bytes is one"},
        ),
        (
            JobSpec,
            {"outputs": [{"name": "n", "path": "p", "to": "m"}]},
            {"outputs.0.to": "is no field of this request"},
        ),
        (JobSpec, {"priority": True}, {"priority": "must not be a boolean"}),
        (JobSpec, {"array_size": True}, {"array_size": "must not be a boolean"}),
        (JobRetries, {"exit_codes": [3, True]}, {"exit_codes.1": "must not be a boolean"}),
        (JobTimeouts, {"run": True}, {"run": "must not be a boolean"}),
        (Resources, {"gpu_count": True}, {"gpu_count": "must not be a boolean"}),
        (JobChanges, {"label": {}}, {"label": "is no field of this request; labels is one"}),
        (
            DeploymentSpec,
            {"name": "n", "model": "m", "replicas": 2},
            {"replicas": "is no field of this request; replica_count is one"},
        ),
        (Plan, {"replicas_max": True}, {"replicas_max": "must not be a boolean"}),
    ],
)
def test_what_is_asked_with_a_field_that_it_has_not_is_refused_by_its_name(
    asked: type[BaseModel], given: dict[str, object], problems: dict[str, str]
) -> None:
    whole = {"name": "n", "image": "i", "command": ["true"]} if asked is JobSpec else {}
    with pytest.raises(ValidationError) as raised:
        asked(**whole | given)
    found = {".".join(map(str, each["loc"])): each["msg"] for each in raised.value.errors()}
    assert found == problems
    assert all(f"{field}\n  {said}" in str(raised.value) for field, said in problems.items())


def test_an_answer_may_repeat_a_spec_with_fields_of_a_newer_platform() -> None:
    newer = {"of_a_newer": 1}
    spec = JOB["spec"] | newer | {"resources": newer}  # type: ignore[operator]
    with a_client(lambda _: httpx.Response(200, json=JOB | {"spec": spec})) as client:
        assert client.job("job_1").spec == SPEC


def test_a_client_that_is_printed_does_not_show_its_key() -> None:
    with Client("http://edge", "myk_x") as client:
        assert "http://edge" in repr(client)
        assert "myk_x" not in repr(client)


def test_submit_repeats_with_the_same_key_after_503() -> None:
    keys: list[str] = []
    pauses: list[float] = []

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) < 3:
            return httpx.Response(503, headers={"Retry-After": "2"}, json={"code": "UNAVAILABLE"})
        return httpx.Response(202, json=JOB)

    with a_client(handler, pauses) as client:
        assert client.submit_job(SPEC).id == "job_1"
    assert len(set(keys)) == 1
    assert len(keys) == 3
    assert all(pause >= 2 for pause in pauses)


def test_a_refusal_is_raised_at_once_with_its_code() -> None:
    calls: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(404, json={"code": "NOT_FOUND", "detail": "job x was not found"})

    with a_client(handler) as client, pytest.raises(ApiError, match="job x") as raised:
        client.job("x")
    assert (raised.value.code, raised.value.status, len(calls)) == ("NOT_FOUND", 404, 1)


def test_an_answer_that_is_no_json_is_still_an_api_error() -> None:
    with (
        a_client(lambda _: httpx.Response(500, text="<html>")) as client,
        pytest.raises(ApiError, match="HTTP 500"),
    ):
        client.job("x")


def never(request: httpx.Request) -> httpx.Response:
    raise AssertionError(request.url)


@pytest.mark.parametrize("text", ["a/b", "/", ".", "..", ""])
def test_what_would_lead_to_another_route_is_not_asked_for(text: str) -> None:
    with a_client(never) as client:
        calls: list[Callable[[], object]] = [
            lambda: client.job(text),
            lambda: client.cancel_job(text, reason=""),
            lambda: next(client.logs(text)),
            lambda: next(client.follow_logs(text)),
            lambda: client.set_alias(text, "champion", 1),
            lambda: client.set_alias("digits", text, 1),
            lambda: client.infer(text, {}),
            lambda: client.revoke_key(text),
            lambda: client.delete_tenant(text, grace=timedelta(0)),
        ]
        for call in calls:
            with pytest.raises(InvalidId):
                call()


def test_what_is_no_text_is_no_id() -> None:
    with a_client(never) as client, pytest.raises(InvalidId):
        client.explain_job(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["", "ü", "a b", "a\nb", "k" * 201])
def test_what_can_be_no_idempotency_key_is_refused_before_anything_is_asked(key: str) -> None:
    with a_client(never) as client, pytest.raises(ValueError, match="idempotency_key: must be 1"):
        client.submit_job(SPEC, idempotency_key=key)


def test_inference_is_not_repeated() -> None:
    calls: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        raise httpx.ReadError("gone")

    with a_client(handler) as client, pytest.raises(ConnectionFailed):
        client.infer("digits", {})
    assert len(calls) == 1


def test_following_goes_on_from_the_last_position_after_a_lost_connection() -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params["after"])
        number = len(asked)
        events = f"id: 1.{number}\nevent: log\ndata: {json.dumps(a_record(number))}\n\n"
        if number == 3:
            events += "event: complete\ndata: {}\n\n"
        return an_event_stream(events)

    with a_client(handler) as client:
        records = list(client.follow_logs("job_1"))
    assert [record.sequence for record in records] == [1, 2, 3]
    assert asked == ["", "1.1", "1.2"]


def test_following_outlasts_a_gateway_that_is_started_again() -> None:
    asked = 0

    def handler(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        if 1 < asked < 30:
            raise httpx.ConnectError("refused")
        event = f"id: 1.{asked}\nevent: log\ndata: {json.dumps(a_record(asked))}\n\n"
        return an_event_stream(event + ("event: complete\ndata: {}\n\n" if asked == 30 else ""))

    with a_client(handler) as client:
        assert [record.sequence for record in client.follow_logs("job_1")] == [1, 30]


def test_following_gives_up_on_what_does_not_pass() -> None:
    asked = 0

    def handler(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        problem = json.dumps({"status": 404, "code": "NOT_FOUND", "detail": "gone"})
        return an_event_stream(f"event: problem\ndata: {problem}\n\n")

    with a_client(handler) as client, pytest.raises(ApiError, match="gone"):
        list(client.follow_logs("job_1"))
    assert asked == 1


@pytest.mark.parametrize(
    "events",
    ["", 'event: problem\ndata: {"status": 503, "code": "UNAVAILABLE", "detail": "down"}\n\n'],
)
def test_following_what_keeps_breaking_off_ends(events: str) -> None:
    asked = 0

    def handler(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        assert asked < 10
        return an_event_stream(events)

    with a_client(handler) as client, pytest.raises((ApiError, ConnectionFailed)):
        list(client.follow_logs("job_1"))
    assert asked == 6


def test_following_a_quiet_job_outlasts_the_longest_stream() -> None:
    asked = 0

    def handler(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        if asked == 20:
            return an_event_stream("event: complete\ndata: {}\n\n")
        problem = json.dumps({"status": 504, "code": "DEADLINE_EXCEEDED", "detail": "old"})
        return an_event_stream(f"event: problem\ndata: {problem}\n\n")

    with a_client(handler) as client:
        assert list(client.follow_logs("job_1")) == []


def test_following_what_is_quiet_asks_whether_to_go_on_and_outlasts_many_connections() -> None:
    asked = 0
    answers = iter([True] * 19 + [False])

    def handler(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return an_event_stream("event: quiet\ndata: {}\n\n")

    with a_client(handler) as client:
        assert list(client.follow_logs("job_1", on_quiet=lambda: next(answers))) == []
    assert asked == 20


def test_the_output_of_a_deployment_is_read_and_followed() -> None:
    asked: list[tuple[str, str]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        params = request.url.params
        asked.append((request.url.path, params["after"]))
        if "follow" in params:
            event = f"event: log\ndata: {json.dumps(a_record(3))}\n\n"
            return an_event_stream(f"{event}event: complete\ndata: {{}}\n\n")
        page = {"records": [a_record(2)], "next": "1.2", "is_complete": True}
        return httpx.Response(200, json=page)

    with a_client(handler) as client:
        stored = list(client.deployment_logs("digits", after="1.1"))
        live = list(client.follow_deployment_logs("digits", after="1.2"))
    assert [record.sequence for record in (*stored, *live)] == [2, 3]
    path = "/v1/deployments/digits/logs"
    assert asked == [(path, "1.1"), (path, "1.2")]


def test_a_twin_that_is_still_at_work_is_waited_for() -> None:
    calls: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        if len(calls) == 1:
            return httpx.Response(409, headers={"Retry-After": "1"}, json={"code": "IN_PROGRESS"})
        return httpx.Response(202, json=JOB)

    with a_client(handler) as client:
        assert client.submit_job(SPEC).id == "job_1"


def test_lists_are_read_to_their_last_page() -> None:
    pages = {
        "": {"deployments": [a_deployment("a")], "next_page_token": "t"},
        "t": {"deployments": [a_deployment("b")], "next_page_token": ""},
    }
    with a_client(
        lambda request: httpx.Response(200, json=pages[request.url.params["page_token"]])
    ) as client:
        assert [found.spec.name for found in client.deployments()] == ["a", "b"]


def test_a_key_that_ends_between_two_pages_is_listed_once() -> None:
    key: dict[str, object] = {
        "name": "ci",
        "role": "viewer",
        "scopes": [],
        "created_at": "2026-01-01T00:00:00Z",
        "expires_at": None,
        "revoked_at": None,
    }
    ended = {"id": "key_1", **key, "revoked_at": "2026-01-02T00:00:00Z"}
    pages = {
        "": {"keys": [{"id": "key_1", **key}], "next_page_token": "t"},
        "t": {"keys": [{"id": "key_2", **key}, ended], "next_page_token": ""},
    }
    with a_client(
        lambda request: httpx.Response(200, json=pages[request.url.params["page_token"]])
    ) as client:
        found = client.keys()
    assert [(each.id, each.revoked_at is None) for each in found] == [
        ("key_1", False),
        ("key_2", True),
    ]


def test_an_id_is_one_segment_of_the_path() -> None:
    asked: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path)
        return httpx.Response(204)

    with a_client(handler) as client:
        client.revoke_key("a?b#c%2Fd")
    assert asked == [b"/v1/api-keys/a%3Fb%23c%252Fd"]


def test_an_answer_that_is_none_of_ours_is_told_in_a_sentence() -> None:
    with a_client(lambda _: httpx.Response(200, text="<html>")) as client:
        with pytest.raises(ConnectionFailed, match="http://edge"):
            client.job("x")
        with pytest.raises(ConnectionFailed, match="http://edge"):
            client.readiness()


def test_following_an_unknown_job_fails_at_once() -> None:
    with (
        a_client(lambda _: httpx.Response(404, json={"code": "NOT_FOUND"})) as client,
        pytest.raises(ApiError),
    ):
        list(client.follow_logs("job_x"))


def test_logs_are_read_page_by_page_until_no_page_moves_on() -> None:
    pages = {
        "": {"records": [a_record(1)], "next": "1.1", "is_complete": False},
        "1.1": {"records": [], "next": "1.5", "is_complete": False},
        "1.5": {"records": [a_record(6)], "next": "1.6", "is_complete": False},
        "1.6": {"records": [], "next": "1.6", "is_complete": False},
    }
    with a_client(
        lambda request: httpx.Response(200, json=pages[request.url.params["after"]])
    ) as client:
        assert [record.sequence for record in client.logs("job_1")] == [1, 6]


def test_an_artifact_is_sent_whole_again_after_a_lost_connection(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    bodies: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        if len(bodies) == 1:
            return httpx.Response(503, json={})
        return httpx.Response(201, json={"digest": "sha256:1", "size_bytes": 100_000})

    with a_client(handler) as client:
        assert client.put_artifact(source, digest="sha256:1") == "sha256:1"
    assert [len(body) for body in bodies] == [100_000, 100_000]


def an_event_stream(events: str) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=events)


def a_deployment(name: str) -> dict[str, object]:
    return {
        "id": f"dep_{name}",
        "spec": {"name": name, "model": "models:/m/1"},
        "state": "SERVING",
        "reason": "",
        "model_name": "m",
        "model_version": 1,
        "replicas": [],
        "version": 1,
        "created_at": "2026-01-01T00:00:00Z",
        "trace_id": "",
    }


def a_record(sequence: int) -> dict[str, object]:
    return {
        "position": f"1.{sequence}",
        "attempt_id": "att_1",
        "attempt_number": 1,
        "sequence": sequence,
        "stream": "stdout",
        "time": "2026-01-01T00:00:00Z",
        "text": "x",
        "is_cut": False,
        "is_gap": False,
    }


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (httpx.Response(413, text="Too large for us"), "HTTP 413: Too large for us"),
        (httpx.Response(403, json={"detail": [{"msg": "not to there"}]}), "not to there"),
    ],
)
def test_what_something_in_between_refuses_with_is_told(answer: httpx.Response, text: str) -> None:
    with a_client(lambda _: answer) as client, pytest.raises(ApiError, match=text):
        client.infer("digits", {})
