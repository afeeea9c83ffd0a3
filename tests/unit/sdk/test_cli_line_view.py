"""`modelyard queue`: the line, once or again and again."""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from modelyard.client import Client

from tests.unit.sdk.command_line import exit_code_of

NOW = datetime.now(UTC)
TERMINAL = {"COLUMNS": "60", "LINES": "12"}
CLEARED = "\x1b[H\x1b[2J"


def a_job(number: int, *, state: str = "QUEUED", priority: int = 50, name: str = "n") -> Any:
    created_at = NOW - timedelta(hours=5, minutes=30) + timedelta(seconds=number)
    return {
        "id": f"job_{number}",
        "spec": {"name": name, "image": "i", "command": ["true"], "priority": priority},
        "state": state,
        "reason": "submitted",
        "version": 1,
        "attempt_number": 0,
        "attempt_id": "",
        "node_id": "" if state == "QUEUED" else "machine-7",
        "progress": None,
        "failure": None,
        "created_at": created_at.isoformat(),
        "started_at": None,
        "ended_at": None,
        "trace_id": "",
    }


@dataclass
class Platform:
    """Answers as one with these jobs, the newest first; `place_of` says who stands where."""

    queued: list[Any] = field(default_factory=list)
    placed: list[Any] = field(default_factory=list)
    started: set[str] = field(default_factory=set)
    """Those of the queued that have started by the time that they are asked about."""
    back: dict[str, list[Any]] = field(default_factory=dict)
    """Elements that are back in line, by their arrays."""
    arrays_asked: list[str] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    failure: httpx.Response | None = None

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked[path] += 1
        if self.failure is not None:
            return self.failure
        if path == "/v1/jobs":
            return self._page(request.url.params)
        job_id = path.split("/")[3]
        return httpx.Response(200, json=self._explanation(job_id))

    def _page(self, params: httpx.QueryParams) -> httpx.Response:
        jobs = self.queued if params.get_list("state") == ["QUEUED"] else self.placed
        if array_id := params.get("array"):
            assert params.get_list("state") == ["QUEUED"]
            self.arrays_asked.append(array_id)
            jobs = self.back.get(array_id, [])
        begin = int(params["page_token"] or 0)
        end = begin + int(params["page_size"])
        token = str(end) if end < len(jobs) else ""
        return httpx.Response(200, json={"jobs": jobs[begin:end], "next_page_token": token})

    def _explanation(self, job_id: str) -> dict[str, object]:
        return {
            "job_id": job_id,
            "state": "RUNNING" if job_id in self.started else "QUEUED",
            "hold": "RESOURCES",
            "because": "no node has room",
            "helped_by": "the end of what runs",
            "jobs_before": 10 + int(job_id.removeprefix("job_")),
            "estimated_start_at": "2026-01-02T10:00:00Z",
        }

    @property
    def explained(self) -> list[str]:
        return [path.split("/")[3] for path in self.asked if path.endswith("/explain")]


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    platform = Platform()
    reaching(monkeypatch, platform, sleep=lambda _: None)
    return platform


def reaching(
    monkeypatch: pytest.MonkeyPatch, platform: Platform, *, sleep: Callable[[float], None]
) -> None:
    transport = httpx.MockTransport(platform.answer)
    client = partial(Client, transport=transport, sleep=sleep)
    monkeypatch.setenv("MODELYARD_URL", "http://edge")
    monkeypatch.setattr("modelyard.cli.main.Client", client)


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name, value in TERMINAL.items():
        monkeypatch.setenv(name, value)


def cells(line: str) -> list[str]:
    return re.split(r"  +", line)


def test_a_look_shows_who_waits_for_what_and_what_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.queued = [a_job(3), a_job(2, priority=90, name="a\tb"), a_job(1)]
    platform.placed = [a_job(0, state="RUNNING")]

    assert exit_code_of(monkeypatch, "queue") == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("Z, in line: 3")
    starts, held = "01-02T10:00Z", ["RESOURCES", "no node has room"]
    assert [cells(line) for line in lines[1:]] == [
        [""],
        ["PLACE", "JOB", "NAME", "PRIORITY", "AGE", "STARTS", "HELD BY", "BECAUSE"],
        ["12", "job_1", "n", "50", "5h", starts, *held],
        ["13", "job_2", "a\\tb", "90", "5h", starts, *held],
        ["14", "job_3", "n", "50", "5h", starts, *held],
        [""],
        ["JOB", "NAME", "PRIORITY", "AGE", "STATE", "NODE"],
        ["job_0", "n", "50", "5h", "RUNNING", "machine-7"],
    ]


def an_array(number: int, state: str = "QUEUED", **elements: int) -> Any:
    return a_job(number, state=state, name="sweep") | {
        "node_id": "",
        "array": {"elements": elements},
    }


def an_element(number: int, *, of: Any, index: int) -> Any:
    element = {"array_id": of["id"], "index": index}
    return a_job(number, name="sweep") | {"created_at": of["created_at"], "element": element}


def test_an_array_is_one_line_with_how_many_elements_wait_and_one_with_those_that_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.queued = [
        an_array(4, QUEUED=1),
        an_array(2, QUEUED=90, STARTING=1, RUNNING=8, SUCCEEDED=1),
    ]
    placed = [
        a_job(3, state="RUNNING"),
        an_array(1, "RUNNING", RUNNING=5, FAILED=1),
        an_array(0, "RUNNING", QUEUED=1, SUCCEEDED=9),
    ]
    platform.placed = placed

    assert exit_code_of(monkeypatch, "queue") == 0

    lines = [cells(line) for line in capsys.readouterr().out.splitlines()]
    assert [line[1:3] for line in lines if line[0].isdigit()] == [
        ["job_2", "sweep (90 elements)"],
        ["job_4", "sweep (1 element)"],
    ]
    assert [(line[0], line[4]) for line in lines if line[0].startswith("job_")] == [
        ("job_3", "RUNNING"),
        ("job_2", "1 STARTING, 8 RUNNING"),
        ("job_1", "5 RUNNING"),
        ("job_0", "1 QUEUED"),
    ]


def test_elements_that_are_back_in_line_are_lines_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    in_line = an_array(5, QUEUED=10, RUNNING=1)
    started = an_array(2, "RUNNING", QUEUED=2, RUNNING=5)
    platform.queued = [a_job(7), in_line, a_job(1)]
    platform.placed = [an_array(6, "RUNNING", RUNNING=5), started]
    platform.back = {
        "job_2": [an_element(4, of=started, index=7), an_element(3, of=started, index=0)],
        "job_5": [an_element(5, of=in_line, index=1) | {"id": "job_05"}],
    }

    assert exit_code_of(monkeypatch, "queue") == 0

    lines = [cells(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0][0].endswith(", in line: 6")
    assert [line[1:3] + line[6:] for line in lines if line[0].isdigit()] == [
        [job_id, name, "RESOURCES", "no node has room"]
        for job_id, name in [
            ("job_1", "n"),
            ("job_3", "sweep (element 0)"),
            ("job_4", "sweep (element 7)"),
            ("job_05", "sweep (element 1)"),
            ("job_5", "sweep (9 elements)"),
            ("job_7", "n"),
        ]
    ]
    assert platform.arrays_asked == ["job_2", "job_5"]


def test_no_fewer_than_none_wait_where_some_came_back_during_the_look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    array = an_array(1, QUEUED=1, RUNNING=3)
    platform.queued = [array]
    platform.back = {"job_1": [an_element(n, of=array, index=n) for n in (3, 2)]}

    assert exit_code_of(monkeypatch, "queue") == 0

    assert "sweep (0 elements)" in capsys.readouterr().out


def test_a_look_asks_about_elements_of_some_arrays_only_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.placed = [an_array(n, "RUNNING", QUEUED=300) for n in range(120, 99, -1)]
    platform.back = {
        of["id"]: [an_element(n, of=of, index=n) for n in range(300)] for of in platform.placed
    }

    assert exit_code_of(monkeypatch, "queue") == 0

    assert ", in line: 4000 or more" in capsys.readouterr().out
    assert platform.arrays_asked == [f"job_{n}" for n in range(100, 120)]
    assert (platform.asked["/v1/jobs"], len(platform.explained)) == (2 + 20, 20)


def test_a_look_asks_about_the_first_in_line_only(
    monkeypatch: pytest.MonkeyPatch, platform: Platform
) -> None:
    platform.queued = [*(a_job(n) for n in range(400, 100, -1)), a_job(100, priority=99)]

    assert exit_code_of(monkeypatch, "queue", "--once") == 0

    assert platform.explained == ["job_100", *(f"job_{n}" for n in range(101, 120))]
    assert platform.asked["/v1/jobs"] == 2 + 1


def test_a_line_that_is_too_long_to_be_listed_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.queued = [a_job(n) for n in range(2_000, 0, -1)]

    assert exit_code_of(monkeypatch, "queue") == 0

    assert ", in line: 1000 or more" in capsys.readouterr().out
    assert platform.asked["/v1/jobs"] == 5 + 1


def test_a_job_that_has_started_meanwhile_does_not_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.queued, platform.started = [a_job(2), a_job(1)], {"job_1"}

    assert exit_code_of(monkeypatch, "--json", "queue") == 0

    told = json.loads(capsys.readouterr().out)
    assert [found["job_id"] for found in told["waiting"]] == ["job_2"]
    assert (told["waiting"][0]["place"], told["waiting"][0]["hold"]) == (13, "RESOURCES")
    assert (told["waiting_count"], told["is_whole"], told["placed"]) == (2, True, [])


@pytest.mark.parametrize("how", [("--once",), ()], ids=["asked to", "no terminal"])
def test_one_look_is_enough(
    how: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    platform: Platform,
) -> None:
    if how:
        on_a_terminal(monkeypatch)

    assert exit_code_of(monkeypatch, "queue", *how) == 0

    assert platform.asked["/v1/jobs"] == 2
    assert CLEARED not in capsys.readouterr().out


def test_a_terminal_is_shown_what_it_has_room_for_every_two_seconds_until_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.queued = [a_job(n) for n in range(30, 0, -1)]
    slept = []

    def sleep(length_s: float) -> None:
        slept.append(length_s)
        if len(slept) == 3:
            raise KeyboardInterrupt

    reaching(monkeypatch, platform, sleep=sleep)
    on_a_terminal(monkeypatch)

    assert exit_code_of(monkeypatch, "queue") == 130

    assert slept == [2.0, 2.0, 2.0]
    first, *looks = capsys.readouterr().out.split(CLEARED)
    assert (first, len(looks)) == ("", 3)
    assert all(len(look.rstrip("\n").splitlines()) == 11 for look in looks)
    assert max(len(line) for look in looks for line in look.splitlines()) == 60


def test_a_watcher_asks_on_while_nobody_can_tell_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    away = httpx.Response(503, json={"code": "UNAVAILABLE", "detail": "scheduler is not available"})
    outages = iter([20, 10_000])
    tries_left = 0

    def sleep(_: float) -> None:
        nonlocal tries_left
        if platform.failure is None:  # between two looks
            tries_left, platform.failure = next(outages), away
        tries_left -= 1
        if tries_left == 0:
            platform.failure = None

    reaching(monkeypatch, platform, sleep=sleep)
    on_a_terminal(monkeypatch)

    assert exit_code_of(monkeypatch, "queue") == 3

    said = capsys.readouterr()
    assert said.out.count(CLEARED) == 2
    told = "what the line is at can't be told: scheduler is not available; asking on"
    assert said.err.count(told) == 2
    assert "refused (UNAVAILABLE)" in said.err


def test_who_has_never_seen_the_line_is_not_kept_waiting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.failure = httpx.Response(503, json={"code": "UNAVAILABLE", "detail": "away"})
    on_a_terminal(monkeypatch)

    assert exit_code_of(monkeypatch, "queue") == 3

    assert platform.asked == {"/v1/jobs": 6}
    assert "asking on" not in capsys.readouterr().err
