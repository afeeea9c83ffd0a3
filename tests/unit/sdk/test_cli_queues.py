"""`modelyard queue`, on answers of a gateway."""

import json
from functools import partial
from typing import Any

import httpx
import pytest
from modelyard.client import Client

from tests.unit.sdk.command_line import exit_code_of

OPEN: dict[str, Any] = {
    "name": "nightly",
    "paused_at": None,
    "paused_reason": "",
    "queued_count": 2,
    "running_count": 1,
}
PAUSED = OPEN | {"paused_at": "2026-01-01T10:00:00Z", "paused_reason": "it is day"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Any]]:
    """Note what is asked of a gateway with one queue."""
    noted: list[tuple[str, str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        noted.append((request.method, request.url.path, body))
        if request.method == "GET":
            return httpx.Response(200, json={"queues": [PAUSED], "next_page_token": ""})
        return httpx.Response(200, json=PAUSED if body else OPEN)

    transport = httpx.MockTransport(answer)
    monkeypatch.setattr("modelyard.cli.main.Client", partial(Client, transport=transport))
    return noted


def test_queues_are_listed_with_their_pauses(
    asked: list[tuple[str, str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code_of(monkeypatch, "queue", "list") == 0
    assert asked == [("GET", "/v1/queues", None)]
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split() == ["QUEUE", "STATE", "QUEUED", "RUNNING", "REASON"]
    assert line.startswith("nightly")
    assert "paused for" in line
    assert line.endswith("it is day")


def test_a_queue_is_paused_with_a_reason_and_resumed(
    asked: list[tuple[str, str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code_of(monkeypatch, "queue", "pause", "nightly", "--reason", "it is day") == 0
    assert exit_code_of(monkeypatch, "queue", "resume", "nightly") == 0
    assert asked == [
        ("POST", "/v1/queues/nightly/pause", {"reason": "it is day"}),
        ("GET", "/v1/queues", None),
        ("POST", "/v1/queues/nightly/resume", None),
    ]
    said = capsys.readouterr()
    assert "open" in said.out.splitlines()[-1]
    assert said.err == ""


@pytest.mark.parametrize(
    ("status", "listed", "count", "said"),
    [
        (200, [OPEN], 2, "queue nightly was not paused\n"),
        (
            200,
            [PAUSED | {"name": "nightly-2"}],
            0,
            "queue nightly was not paused, and no job that has not ended names it\n",
        ),
        (403, None, 0, ""),
        (500, None, 0, ""),
    ],
    ids=["not paused", "of no job", "who may not look", "of what nobody can tell"],
)
def test_a_queue_that_was_not_paused_is_told_as_such(
    *,
    status: int,
    listed: list[Any] | None,
    count: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            resumed = OPEN | {"queued_count": count, "running_count": 0}
            return httpx.Response(200, json=resumed)
        if listed is None:
            return httpx.Response(status, json={"code": "REFUSED"})
        return httpx.Response(200, json={"queues": listed, "next_page_token": ""})

    transport = httpx.MockTransport(answer)
    monkeypatch.setattr("modelyard.cli.main.Client", partial(Client, transport=transport))

    assert exit_code_of(monkeypatch, "queue", "resume", "nightly") == 0

    assert capsys.readouterr().err == said


def test_a_queue_is_not_paused_without_a_reason(
    asked: list[tuple[str, str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_code_of(monkeypatch, "queue", "pause", "nightly") == 2
    assert asked == []


def test_queues_are_told_as_json(
    asked: list[tuple[str, str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code_of(monkeypatch, "--json", "queue", "list") == 0
    assert json.loads(capsys.readouterr().out) == [PAUSED]
    assert len(asked) == 1
