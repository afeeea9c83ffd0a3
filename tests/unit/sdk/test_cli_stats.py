"""`modelyard stats`: how a tenant's jobs have fared."""

import json
from functools import partial

import httpx
import pytest
from modelyard.client import Client

from tests.unit.sdk.command_line import exit_code_of

STATS = {
    "since": "2026-01-01T00:00:00Z",
    "until": "2026-01-08T00:00:00Z",
    "waits": [
        {
            "queue": "default",
            "priority": 90,
            "waited": {"job_count": 1, "p50_s": 2.5, "p99_s": 2.5},
        },
        {
            "queue": "nightly",
            "priority": 50,
            "waited": {"job_count": 40, "p50_s": 65, "p99_s": 93_600},
        },
    ],
    "ends": [
        {
            "state": "CANCELLED",
            "job_count": 2,
            "ran": {"job_count": 0, "p50_s": None, "p99_s": None},
        },
        {
            "state": "SUCCEEDED",
            "job_count": 38,
            "ran": {"job_count": 38, "p50_s": 600, "p99_s": 3_600},
        },
    ],
    "is_whole": True,
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    """Answer with these stats; return what is asked."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        is_long = request.url.params["window"] == "PT604800S"
        return httpx.Response(200, json=STATS | {"is_whole": is_long})

    transport = httpx.MockTransport(answer)
    monkeypatch.setenv("MODELYARD_URL", "http://edge")
    monkeypatch.setattr("modelyard.cli.main.Client", partial(Client, transport=transport))
    return asked


def test_stats_are_a_table_of_waits_and_one_of_ends(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: list[httpx.Request],
) -> None:
    assert exit_code_of(monkeypatch, "stats", "--window", "7d") == 0

    assert [request.url.path for request in asked] == ["/v1/stats"]
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["from", "2026-01-01T00:00:00Z", "to", "2026-01-08T00:00:00Z"],
        [],
        ["QUEUE", "PRIORITY", "ADMITTED", "WAITED", "P50", "WAITED", "P99"],
        ["default", "90", "1", "0:00:02.5", "0:00:02.5"],
        ["nightly", "50", "40", "0:01:05.0", "26:00:00.0"],
        [],
        ["STATE", "ENDED", "RAN", "RAN", "P50", "RAN", "P99"],
        ["CANCELLED", "2", "0", "-", "-"],
        ["SUCCEEDED", "38", "38", "0:10:00.0", "1:00:00.0"],
    ]


def test_stats_that_are_not_whole_say_so(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: list[httpx.Request],
) -> None:
    assert exit_code_of(monkeypatch, "stats") == 0

    assert asked[0].url.params["window"] == "PT86400S"
    told = "there are more jobs than are looked at: these are the latest"
    assert told in capsys.readouterr().out


def test_stats_are_told_to_programs_whole(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: list[httpx.Request],
) -> None:
    assert exit_code_of(monkeypatch, "--json", "stats", "--window", "7d") == 0

    told = json.loads(capsys.readouterr().out)
    assert told["waits"][0] == {
        "queue": "default",
        "priority": 90,
        "waited": {"job_count": 1, "p50_s": 2.5, "p99_s": 2.5},
    }
    assert told["is_whole"]


def test_a_window_that_is_no_time_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[httpx.Request]
) -> None:
    assert exit_code_of(monkeypatch, "stats", "--window", "week") == 2
    assert "--window" in capsys.readouterr().err
    assert asked == []
