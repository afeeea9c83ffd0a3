"""`modelyard tenant …`: what it asks for and what it prints."""

import json
from functools import partial
from typing import Any

import httpx
import pytest
from modelyard.cli import main as cli
from modelyard.cli.tenants import tenant_plan
from modelyard.cli.told_options import told_by_options
from modelyard.client import ApiError, Client, Plan

from tests.unit.sdk.command_line import exit_code_of

TENANT: dict[str, Any] = {
    "id": "acme",
    "state": "SUSPENDED",
    "version": 2,
    "reason": "unpaid",
    "plan": {"queued_jobs_max": 5},
    "created_at": "2026-01-01T00:00:00Z",
    "changed_at": "2026-01-02T00:00:00Z",
}
NO_PLAN = {
    "queued_jobs_max": None,
    "replicas_max": None,
    "priority_max": None,
    "requests_max": None,
    "running_cpu_millicores_max": None,
    "running_memory_bytes_max": None,
    "running_gpu_count_max": None,
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Any]]:
    """Answer the command line as the gateway would; give what it asked."""
    requests: list[tuple[str, str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent = json.loads(request.content) if request.content else None
        requests.append((request.method, request.url.raw_path.decode(), sent))
        if (request.method, request.url.path) == ("POST", "/v1/tenants"):
            return httpx.Response(201, json={"tenant": TENANT, "key": "myk_text"})
        if request.url.path == "/v1/tenants/acme/keys":
            return httpx.Response(201, json={"key": "myk_another"})
        if request.url.path == "/v1/tenants":
            page = {"tenants": [TENANT], "next_page_token": ""}
            return httpx.Response(200, json=page)
        return httpx.Response(200, json=TENANT)

    monkeypatch.setattr(cli, "Client", partial(Client, transport=httpx.MockTransport(answer)))
    return requests


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        (["create", "acme"], ("POST", "/v1/tenants", {"id": "acme", "plan": NO_PLAN})),
        (["list"], ("GET", "/v1/tenants?page_size=200&page_token=", None)),
        (["key", "acme"], ("POST", "/v1/tenants/acme/keys", None)),
        (["show", "acme"], ("GET", "/v1/tenants/acme", None)),
        (
            ["suspend", "acme", "--reason", "unpaid"],
            ("POST", "/v1/tenants/acme/suspend", {"reason": "unpaid"}),
        ),
        (["resume", "acme"], ("POST", "/v1/tenants/acme/resume", None)),
        (
            ["delete", "acme", "--grace", "0s", "--yes"],
            ("DELETE", "/v1/tenants/acme?grace=PT0S", None),
        ),
        (
            ["plan", "acme", "--replicas-max", "0", "--running-memory-max", "1G"],
            (
                "PUT",
                "/v1/tenants/acme/plan",
                NO_PLAN | {"replicas_max": 0, "running_memory_bytes_max": 1 << 30},
            ),
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_each_command_asks_for_one_thing(
    arguments: list[str],
    request_: tuple[str, str, Any],
    asked: list[tuple[str, str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert exit_code_of(monkeypatch, "tenant", *arguments) == 0
    assert asked == [request_]


@pytest.mark.parametrize(
    "command",
    [["suspend", "--reason", "unpaid"], ["resume"], ["delete", "--yes"], ["plan", "--unlimited"]],
    ids=lambda command: command[0],
)
def test_a_change_may_be_for_one_version(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {"code": "VERSION_MISMATCH", "detail": "tenant acme is at version 4"}
    name, *options = command

    def answer(request: httpx.Request) -> httpx.Response:
        if "If-Match" in request.headers:
            assert request.headers["If-Match"] == '"3"'
            return httpx.Response(412, json=problem)
        return httpx.Response(200, json=TENANT)

    monkeypatch.setattr(cli, "Client", partial(Client, transport=httpx.MockTransport(answer)))
    arguments = ["tenant", name, "acme", *options]
    assert exit_code_of(monkeypatch, *arguments) == 0
    assert exit_code_of(monkeypatch, *arguments, "--if-version", "3") == 3
    assert "tenant acme is at version 4" in capsys.readouterr().err


@pytest.mark.usefixtures("asked")
def test_a_new_tenants_key_is_all_that_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code_of(monkeypatch, "tenant", "create", "acme")
    assert capsys.readouterr().out == "myk_text\n"


@pytest.mark.usefixtures("asked")
def test_a_tenant_is_shown_with_its_reason_and_its_limits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code_of(monkeypatch, "tenant", "show", "acme")
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["state"] == "SUSPENDED"
    assert shown["reason"] == "unpaid"
    assert (shown["queued-jobs-max"], shown["replicas-max"]) == ("5", "-")


def test_a_deletion_has_to_be_meant(
    asked: list[tuple[str, str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code_of(monkeypatch, "tenant", "delete", "acme") == 2
    assert "--yes" in capsys.readouterr().err
    assert asked == []


@pytest.mark.usefixtures("asked")
def test_a_suspension_needs_a_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(monkeypatch, "tenant", "suspend", "acme") == 2
    assert "--reason" in capsys.readouterr().err


def test_what_a_plan_is_refused_for_is_told_by_the_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    field = "running_memory_bytes_max"
    errors = [{"field": field, "problem": "must be at most 8; 9 was asked for"}]
    problem = {"code": "INVALID_ARGUMENT", "detail": f"{field}: too much", "errors": errors}
    transport = httpx.MockTransport(lambda _: httpx.Response(422, json=problem))
    monkeypatch.setattr(cli, "Client", partial(Client, transport=transport))

    assert exit_code_of(monkeypatch, "tenant", "plan", "acme", "--running-memory-max", "9") == 3
    told = capsys.readouterr().err
    assert "--running-memory-max: must be at most 8; 9 was asked for" in told


def test_each_limit_of_a_plan_has_its_option() -> None:
    options = {option for parameter in tenant_plan.params for option in parameter.opts}
    for name in Plan.model_fields:
        refusal = ApiError(422, {"errors": [{"field": name, "problem": "is wrong"}]})
        [option, _] = str(told_by_options(refusal, Plan())).split(":")
        assert option in options
