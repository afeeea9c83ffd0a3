"""`modelyard key …`: what it asks for and what it prints."""

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from modelyard.client import Client

from tests.unit.sdk.command_line import exit_code_of

KEY: dict[str, Any] = {
    "id": "key_1",
    "name": "ci",
    "role": "developer",
    "scopes": [],
    "created_at": "2026-01-01T00:00:00Z",
    "expires_at": None,
    "revoked_at": None,
    "last_used_at": None,
    "replaced_by": None,
    "created_by": "user:anna",
    "person": {"issuer": "https://issuer.test", "subject": "anna"},
}
SOON = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Any]]:
    """Answer the command line as the gateway would; give what it asked."""
    requests: list[tuple[str, str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent = json.loads(request.content) if request.content else None
        requests.append((request.method, request.url.path, sent))
        replaced = KEY | {"replaced_by": "key_2", "expires_at": SOON.isoformat()}
        answers = {
            ("POST", "/v1/api-keys"): {"key": KEY, "text": "myk_text"},
            ("POST", "/v1/api-keys/key_1/rotate"): {
                "key": KEY | {"id": "key_2"},
                "text": "myk_new",
                "replaced": replaced,
            },
            ("GET", "/v1/api-keys"): {
                "keys": [
                    replaced | {"last_used_at": "2026-01-02T00:00:00Z"},
                    KEY
                    | {
                        "id": "key_3",
                        "created_by": "key:key_1",
                        "revoked_at": "2026-01-02T00:00:00Z",
                    },
                    KEY
                    | {
                        "id": "key_4",
                        "created_by": None,
                        "person": None,
                        "expires_at": "2026-01-02T00:00:00Z",
                    },
                ],
                "next_page_token": "",
            },
            ("GET", "/v1/whoami"): {
                "tenant": "acme",
                "subject": "key:key_1",
                "roles": ["viewer"],
                "scopes": ["jobs:read"],
            },
        }
        if request.method == "DELETE":
            return httpx.Response(204)
        return httpx.Response(200, json=answers[request.method, request.url.path])

    at_once = partial(Client, transport=httpx.MockTransport(answer), sleep=lambda _: None)
    monkeypatch.setattr("modelyard.cli.main.Client", at_once)
    monkeypatch.setenv("MODELYARD_URL", "http://edge")
    return requests


def test_create_asks_for_a_role_and_a_lifetime_and_prints_the_key(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = exit_code_of(
        monkeypatch, "key", "create", "ci", "--role", "developer", "--lifetime", "90d"
    )
    assert code == 0
    assert asked[0][2] == {
        "name": "ci",
        "role": "developer",
        "scopes": [],
        "lifetime": "PT7776000S",
    }
    assert "myk_text" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [[], ["--role", "viewer", "--scope", "jobs:read"], ["--role", "viewer", "--lifetime", "90"]],
)
def test_create_with_neither_or_both_or_no_time_is_wrong_usage(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    assert exit_code_of(monkeypatch, "key", "create", "ci", *options) == 2
    assert asked == []


def test_rotate_names_the_overlap_and_shows_both_keys(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(monkeypatch, "key", "rotate", "key_1", "--overlap", "10m") == 0
    assert asked == [("POST", "/v1/api-keys/key_1/rotate", {"overlap": "PT600S"})]
    told = capsys.readouterr().out
    assert "myk_new" in told
    assert f"key_1, in force until {SOON:%Y-%m-%d}" in told


def test_list_tells_rights_maker_last_use_and_state(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(monkeypatch, "key", "list") == 0
    first, second, third = capsys.readouterr().out.splitlines()[1:]
    assert "developer" in first
    assert "  user:anna  " in first
    assert "  key:key_1 of user:anna  " in second
    assert "  -  " in third
    assert "d ago" in first
    assert first.endswith("UTC")
    assert second.endswith("revoked")
    assert third.endswith("expired")


def test_revoke_and_whoami(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(monkeypatch, "key", "revoke", "key_1") == 0
    assert exit_code_of(monkeypatch, "key", "whoami") == 0
    assert [request[:2] for request in asked] == [
        ("DELETE", "/v1/api-keys/key_1"),
        ("GET", "/v1/whoami"),
    ]
    assert "viewer" in capsys.readouterr().out
