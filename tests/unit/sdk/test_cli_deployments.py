"""`modelyard deploy delete`: for which version it asks."""

from functools import partial
from typing import Any

import httpx
import modelyard.cli.main as cli
import pytest
from modelyard.client import Client

from tests.unit.sdk.command_line import exit_code_of

DEPLOYMENT: dict[str, Any] = {
    "id": "dep_1",
    "spec": {"name": "digits", "model": "models:/digits/1"},
    "state": "DELETING",
    "reason": "deletion was asked for",
    "model_name": "digits",
    "model_version": 1,
    "replicas": [],
    "version": 4,
    "created_at": "2026-01-01T00:00:00Z",
    "trace_id": "4bf92f3577b34da6",
}


def test_a_deletion_may_be_for_one_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if request.headers.get("If-Match") == '"2"':
            problem = {"code": "VERSION_MISMATCH", "detail": "deployment digits is at version 3"}
            return httpx.Response(412, json=problem)
        return httpx.Response(202, json=DEPLOYMENT)

    monkeypatch.setattr(cli, "Client", partial(Client, transport=httpx.MockTransport(answer)))
    assert exit_code_of(monkeypatch, "deploy", "delete", "digits", "--if-version", "2") == 3
    assert "deployment digits is at version 3" in capsys.readouterr().err
    assert exit_code_of(monkeypatch, "deploy", "delete", "digits", "--if-version", "3") == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert exit_code_of(monkeypatch, "deploy", "delete", "digits") == 0

    assert told["version"] == "4"
    assert {(request.method, request.url.path) for request in asked} == {
        ("DELETE", "/v1/deployments/digits")
    }
    assert [request.headers.get("If-Match") for request in asked] == ['"2"', '"3"', None]
