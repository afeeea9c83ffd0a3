"""Whose door `down` closes and `up` opens."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from modelyard.client import Client

from deploy.local import pause
from deploy.local.state import ProcessRecord, State


class Platform:
    """A gateway with one node, which is empty as soon as it is drained."""

    def __init__(self, *, used: int, cordoned_at: str | None = None, status: int = 200) -> None:
        self.used = used
        self.cordoned_at = cordoned_at
        self.status = status
        self.changes: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.status != 200:
            return httpx.Response(self.status, json={"detail": "revoked"})
        if request.method == "POST":
            self.changes.append(request.url.path.rsplit("/", 1)[1])
            self.used = 0
            return httpx.Response(200, json=self.node())
        return httpx.Response(200, json={"nodes": [self.node()], "node_count": 1})

    def node(self) -> dict[str, Any]:
        capacity = {"cpu_millicores": 4000, "memory_bytes": 1 << 30}
        return {
            "id": "local",
            "alive": True,
            "heartbeat_at": "2026-01-01T00:00:00Z",
            "runtime": "process",
            "runtime_down_since": None,
            "cordoned_at": self.cordoned_at,
            "capacity": capacity,
            "used": {"cpu_millicores": self.used, "memory_bytes": 0},
        }


@pytest.fixture
def state(tmp_path: Path) -> State:
    """Return a stack whose gateway runs: this very process stands for it."""
    state = State(tmp_path)
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with state.changing() as record:
        record.processes["api_gateway"] = ProcessRecord(
            os.getpid(), ticks, boot_id, "gateway", log="", stop_signal=15, stop_grace_s=0
        )
    return state


def answering(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Platform:
    transport = httpx.MockTransport(platform.answer)
    monkeypatch.setattr(pause, "Client", partial(Client, transport=transport))
    return platform


def test_what_runs_is_asked_to_leave_and_the_node_is_opened_again_once(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = answering(Platform(used=1000), monkeypatch)

    pause.drain(state)
    pause.reopen(state)
    pause.reopen(state)

    assert platform.changes == ["drain", "uncordon"]


def test_an_empty_node_is_left_open(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = answering(Platform(used=0), monkeypatch)

    pause.drain(state)
    pause.reopen(state)

    assert platform.changes == []


def test_a_node_that_its_operator_has_closed_stays_closed(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = answering(Platform(used=1000, cordoned_at="2026-01-01T00:00:00Z"), monkeypatch)

    pause.drain(state)
    pause.reopen(state)

    assert platform.changes == ["drain"]


def test_where_the_first_key_opens_nothing_any_more_that_is_said(
    state: State, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(Platform(used=1000, status=401), monkeypatch)

    pause.drain(state)
    assert "may cost a retry: revoked" in capsys.readouterr().out

    with state.changing() as record:
        record.is_node_closed = True
    pause.reopen(state)
    assert "`modelyard node uncordon local`: revoked" in capsys.readouterr().out
    assert not state.read().is_node_closed


def test_a_stack_without_a_gateway_is_not_asked(tmp_path: Path) -> None:
    pause.drain(State(tmp_path))
    pause.reopen(State(tmp_path))
