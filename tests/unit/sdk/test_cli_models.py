"""`modelyard model …`: what it asks for and what it prints."""

import json
from functools import partial
from typing import Any

import httpx
import modelyard.cli.main as cli
import pytest
from modelyard.client import Client

from tests.unit.sdk.command_line import exit_code_of

MODEL: dict[str, Any] = {
    "id": "mdl_1",
    "name": "digits",
    "description": "",
    "tags": {},
    "aliases": {"champion": 2, "challenger": 3},
    "alias_revisions": {"champion": 7, "challenger": 6},
    "newest_version": 3,
    "created_at": "2026-01-01T00:00:00Z",
}
ALIAS = "/v1/models/digits/aliases/champion"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    """Answer the command line as the gateway would; give what it asked."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        if request.url.path.endswith("/versions"):
            return httpx.Response(200, json={"versions": [], "next_page_token": ""})
        return httpx.Response(200, json=MODEL)

    monkeypatch.setattr(cli, "Client", partial(Client, transport=httpx.MockTransport(answer)))
    return requests


def test_an_alias_is_moved_and_removed(
    asked: list[httpx.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_code_of(monkeypatch, "model", "alias", "digits", "champion", "2") == 0
    assert exit_code_of(monkeypatch, "model", "unalias", "digits", "champion") == 0

    moved, removed = asked
    assert (moved.method, moved.url.path) == ("PUT", ALIAS)
    assert json.loads(moved.content) == {"version": 2}
    assert (removed.method, removed.url.path) == ("DELETE", ALIAS)


@pytest.mark.parametrize(
    "command", [["alias", "digits", "champion", "2"], ["unalias", "digits", "champion"]]
)
def test_a_change_may_be_for_one_revision(
    command: list[str], asked: list[httpx.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_code_of(monkeypatch, "model", *command, "--if-revision", "7") == 0
    assert exit_code_of(monkeypatch, "model", *command) == 0
    assert exit_code_of(monkeypatch, "model", *command, "--if-revision", "0") == 2

    assert [request.headers.get("If-Match") for request in asked] == ['"7"', None]


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("command", [["show", "digits"], ["alias", "digits", "champion", "2"]])
def test_a_model_is_shown_with_the_revisions_of_its_aliases(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code_of(monkeypatch, "model", *command)
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())

    assert told["aliases"] == "challenger=3 champion=2"
    assert told["revisions"] == "challenger=6 champion=7"
