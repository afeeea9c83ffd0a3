"""`modelyard member …`: what it asks for and what it prints."""

import json
from functools import partial
from typing import Any

import httpx
import pytest
from modelyard.cli import main as cli
from modelyard.client import Client

from tests.unit.sdk.command_line import exit_code_of

MEMBER: dict[str, Any] = {
    "issuer": "https://issuer.test",
    "subject": "auth0|12",
    "roles": ["developer", "operator"],
    "version": 2,
    "added_at": "2026-01-01T00:00:00Z",
    "changed_at": "2026-01-02T00:00:00Z",
    "changed_by": "key:key_1",
}
ANNA = "subject=auth0%7C12%2Fa%26b"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    """Answer the command line as the gateway would; give what it asked."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        if request.method == "DELETE":
            return httpx.Response(204)
        page = {"members": [MEMBER], "next_page_token": ""}
        return httpx.Response(200, json=page if request.method == "GET" else MEMBER)

    monkeypatch.setattr(cli, "Client", partial(Client, transport=httpx.MockTransport(answer)))
    return requests


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        (["list", "acme"], ("GET", "page_size=200&page_token=", None)),
        (
            ["add", "acme", "auth0|12/a&b", "--role", "operator", "--role", "developer"],
            ("PUT", ANNA, {"roles": ["operator", "developer"]}),
        ),
        (
            ["add", "acme", "auth0|12/a&b", "--role", "viewer", "--issuer", "https://i.test"],
            ("PUT", f"{ANNA}&issuer=https%3A%2F%2Fi.test", {"roles": ["viewer"]}),
        ),
    ],
    ids=["list", "add", "add of an issuer"],
)
def test_each_command_asks_for_one_thing(
    arguments: list[str],
    request_: tuple[str, str, Any],
    asked: list[httpx.Request],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert exit_code_of(monkeypatch, "member", *arguments) == 0

    [request] = asked
    sent = json.loads(request.content) if request.content else None
    assert (request.method, request.url.query.decode(), sent) == request_
    assert request.url.path == "/v1/tenants/acme/members"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["auth0|12"], 0),
        (["auth0|12", "--issuer", "https://issuer.test"], 0),
        (["auth0|12", "--issuer", "https://another.test"], 3),
        (["auth0|13"], 3),
    ],
)
def test_who_is_no_member_is_told_as_not_found_and_asked_to_be_removed_all_the_same(
    arguments: list[str],
    code: int,
    asked: list[httpx.Request],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code_of(monkeypatch, "member", "remove", "acme", *arguments) == code

    assert [request.method for request in asked] == ["GET", "DELETE"]
    assert asked[1].url.params["subject"] == arguments[0]
    told = capsys.readouterr().err
    assert ("refused (NOT_FOUND)" in told) == (code == 3)


@pytest.mark.parametrize("command", [["add", "--role", "viewer"], ["remove"]])
def test_a_change_may_be_for_one_version(
    command: list[str], asked: list[httpx.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *options = command
    arguments = ["member", name, "acme", "auth0|12", *options]
    assert exit_code_of(monkeypatch, *arguments, "--if-version", "3") == 0
    assert exit_code_of(monkeypatch, *arguments) == 0
    assert exit_code_of(monkeypatch, *arguments, "--if-version", "0") == 2

    changes = [request for request in asked if request.method != "GET"]
    assert [request.headers.get("If-Match") for request in changes] == ['"3"', None]


@pytest.mark.usefixtures("asked")
def test_members_are_shown_with_their_roles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code_of(monkeypatch, "member", "list", "acme")
    told = capsys.readouterr().out
    exit_code_of(monkeypatch, "--json", "member", "list", "acme")

    assert "auth0|12  developer operator  2 " in told
    assert json.loads(capsys.readouterr().out) == [MEMBER]


@pytest.mark.usefixtures("asked")
def test_a_new_member_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code_of(monkeypatch, "member", "add", "acme", "auth0|12", "--role", "operator")
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    exit_code_of(monkeypatch, "--json", "member", "add", "acme", "auth0|12", "--role", "operator")

    assert (told["tenant"], told["roles"]) == ("acme", "developer operator")
    assert json.loads(capsys.readouterr().out) == MEMBER


def test_a_member_needs_a_role(
    asked: list[httpx.Request],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code_of(monkeypatch, "member", "add", "acme", "anna") == 2
    assert "--role" in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize(("named", "sent"), [("", None), ("acme", "acme")])
def test_the_tenant_that_is_meant_comes_from_the_environment(
    named: str, sent: str | None, asked: list[httpx.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELYARD_TENANT", named)

    exit_code_of(monkeypatch, "member", "list", "acme")

    assert asked[0].headers.get("Modelyard-Tenant") == sent
