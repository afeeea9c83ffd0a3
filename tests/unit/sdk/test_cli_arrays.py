"""Arrays of jobs at the command line."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import httpx
import pytest
from modelyard.client import Client, ElementAlone, Job, JobSpec

from tests.unit.sdk.command_line import exit_code_of

AWAY = {"status": 503, "code": "UNAVAILABLE", "detail": "scheduler is not available"}
WHERE = (
    "an array has no output of its own; that of an element: modelyard job logs job_1 --element N"
)
ELEMENTS_FAILED = {"reason": "elements", "message": "3 of 100", "exit_code": None, "last_lines": ""}
A_LINE = {
    "position": "1.1",
    "attempt_id": "att_1",
    "attempt_number": 1,
    "sequence": 1,
    "stream": "stdout",
    "time": "2026-01-01T00:00:00Z",
    "text": "of an element",
    "is_gap": False,
}


def a_job(state: str = "QUEUED", *, job_id: str = "job_1", **more: Any) -> dict[str, Any]:
    spec = {"name": "sweep", "image": "i", "command": ["true"], "env": {}, "labels": {}}
    return {
        "id": job_id,
        "spec": spec | {"array_size": None},
        "state": state,
        "reason": "submitted",
        "version": 1,
        "attempt_number": 0,
        "attempt_id": "",
        "node_id": "",
        "progress": None,
        "failure": None,
        "created_at": datetime.now(UTC).isoformat(),
        "started_at": None,
        "ended_at": None,
        "trace_id": "",
        **more,
    }


def an_array(state: str = "QUEUED", **more: Any) -> dict[str, Any]:
    """Return an array of 100; states of elements are given by their names."""
    elements = {name: more.pop(name) for name in list(more) if name.isupper()}
    array = a_job(state, **{"array": {"elements": elements}, **more})
    array["spec"]["array_size"] = 100
    return array


def an_element(index: int, state: str = "RUNNING", **more: Any) -> dict[str, Any]:
    element = {"array_id": "job_1", "index": index}
    return a_job(state, job_id=f"job_e{index}", element=element, **more)


@dataclass
class Platform:
    """Answers looks at job_1 one by one, then with `last`; a list with those that are in it."""

    looks: Iterator[dict[str, Any]] = field(default_factory=lambda: iter(()))
    last: dict[str, Any] = field(default_factory=an_array)
    listed: list[dict[str, Any]] = field(default_factory=list)
    asked: list[httpx.URL] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url)
        match request.method, request.url.path.removeprefix("/v1/").split("/"):
            case "POST", ["jobs", "check"]:
                return httpx.Response(204)
            case "POST", ["artifacts"]:
                return httpx.Response(201, json={"digest": "sha256:0"})
            case "POST", ["jobs"]:
                self.sent.append(json.loads(request.content))
                return httpx.Response(202, json=an_array(QUEUED=100))
            case "GET", ["jobs"]:
                return httpx.Response(200, json={"jobs": self.listed, "next_page_token": ""})
            case _, ["jobs", "job_1", "logs"]:
                return _output(request, records=[])
            case _, ["jobs", _, "logs"]:
                return _output(request, records=[A_LINE])
            case _, ["jobs", "job_1", "attempts"]:
                return httpx.Response(200, json={"attempts": [], "next_page_token": ""})
        job = next(self.looks, self.last)
        return httpx.Response(job.get("status", 200), json=job)


def _output(request: httpx.Request, *, records: list[dict[str, Any]]) -> httpx.Response:
    if "follow" not in request.url.params:
        return httpx.Response(200, json={"records": records, "next": "1.1", "is_complete": True})
    lines = [f"id: 1.1\nevent: log\ndata: {json.dumps(record)}\n\n" for record in records]
    text = "".join(lines) + "event: complete\ndata: {}\n\n"
    return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text=text)


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    platform = Platform()
    transport = httpx.MockTransport(platform.answer)
    client = partial(Client, transport=transport, sleep=lambda _: None)
    monkeypatch.setenv("MODELYARD_URL", "http://edge")
    monkeypatch.setattr("modelyard.cli.main.Client", client)
    return platform


def cells(line: str) -> list[str]:
    return re.split(r"  +", line)


@pytest.mark.parametrize(("options", "size"), [((), None), (("--array", "100"), 100)])
def test_run_says_how_many_elements_there_are_only_where_it_is_an_array(
    options: tuple[str, ...],
    size: int | None,
    monkeypatch: pytest.MonkeyPatch,
    platform: Platform,
    tmp_path: Path,
) -> None:
    command = ("run", str(tmp_path), "--detach", *options, "--", "true")
    assert exit_code_of(monkeypatch, *command) == 0
    assert [spec.get("array_size") for spec in platform.sent] == [size]  # an older one would refuse


def test_an_array_is_followed_to_its_end_by_how_its_elements_stand(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    platform: Platform,
    tmp_path: Path,
) -> None:
    platform.looks = iter(
        [
            *repeat(an_array(QUEUED=100), 30),
            *repeat(AWAY, 20),
            an_array(QUEUED=90, RUNNING=10),
            *repeat(an_array(QUEUED=80, RUNNING=10, SUCCEEDED=10), 5),
            an_array("QUEUED", QUEUED=80, SUCCEEDED=20, reason="tenant is suspended"),
        ]
    )
    failed = {"reason": "3 of 100 elements failed", "failure": ELEMENTS_FAILED}
    platform.last = an_array("FAILED", SUCCEEDED=97, FAILED=3, **failed)

    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--array", "100", "--", "true") == 1

    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[2:] == [
        WHERE,
        "job job_1 QUEUED: 100 QUEUED",
        "job job_1: what it is at can't be told: scheduler is not available; asking on",
        "job job_1 QUEUED: 90 QUEUED, 10 RUNNING",
        "job job_1 QUEUED: 80 QUEUED, 10 RUNNING, 10 SUCCEEDED",
        "job job_1 QUEUED: 80 QUEUED, 20 SUCCEEDED; tenant is suspended",
        "job job_1 FAILED: 97 SUCCEEDED, 3 FAILED; 3 of 100 elements failed",
    ]


def test_who_gives_up_on_an_array_is_told_how_to_follow_it_again(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    platform: Platform,
    tmp_path: Path,
) -> None:
    platform.looks = repeat(AWAY)

    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--array", "9", "--", "true") == 3

    on = "the job goes on; to follow it: modelyard job logs -f job_1"
    assert capsys.readouterr().err.splitlines()[-2] == on


@pytest.mark.parametrize(("how", "code"), [((), 0), (("-f",), 1)])
def test_that_an_array_has_no_output_is_told_once_and_its_end_to_who_follows(
    how: tuple[str, ...],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    platform: Platform,
) -> None:
    platform.looks = iter([an_array("RUNNING", RUNNING=100, reason="")])
    platform.last = an_array("FAILED", FAILED=100, failure=ELEMENTS_FAILED)

    assert exit_code_of(monkeypatch, "job", "logs", *how, "job_1") == code

    end = "job job_1 FAILED: 100 FAILED"
    assert capsys.readouterr().err.splitlines() == [WHERE, *([end] if how else [])]


def test_a_job_that_has_printed_nothing_is_no_array(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.last = a_job("RUNNING")

    assert exit_code_of(monkeypatch, "job", "logs", "job_1") == 0

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("how", [(), ("-f",)])
def test_an_elements_output_is_found_by_its_array_and_index(
    how: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    platform: Platform,
) -> None:
    platform.listed = [an_element(7)]

    assert exit_code_of(monkeypatch, "job", "logs", *how, "job_1", "--element", "7") == 0

    assert capsys.readouterr().out == "of an element\n"
    [sought] = [url.params for url in platform.asked if url.path == "/v1/jobs"]
    assert (sought["array"], sought["index"]) == ("job_1", "7")
    assert platform.asked[-1].path == "/v1/jobs/job_e7/logs"


def test_an_elements_follower_waits_while_nobody_can_tell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.looks, platform.listed = repeat(AWAY, 40), [an_element(7)]

    assert exit_code_of(monkeypatch, "job", "logs", "-f", "job_1", "--element", "7") == 0

    assert capsys.readouterr().out == "of an element\n"


@pytest.mark.parametrize(
    ("job", "index", "why"),
    [
        (an_array(QUEUED=93, RUNNING=7), 7, "it has not been admitted yet"),
        (an_array(QUEUED=93, RUNNING=7), 100, "its last one is 99"),
        (an_array("CANCELLED", CANCELLED=7), 8, "it has never been admitted, or is deleted"),
        (a_job("RUNNING"), 0, "it is no array"),
    ],
)
def test_why_there_is_no_such_element_is_told(
    *,
    job: dict[str, Any],
    index: int,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    platform: Platform,
) -> None:
    platform.last = job

    assert exit_code_of(monkeypatch, "job", "logs", "job_1", "--element", str(index)) == 3

    said = f"refused (NOT_FOUND): element {index} of job_1 was not found: {why}\n"
    assert capsys.readouterr().err == said


def test_an_array_is_run_again_whole_and_an_element_not_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.looks = iter([an_array("FAILED", FAILED=100), an_element(3, "FAILED")])

    assert exit_code_of(monkeypatch, "job", "again", "job_1", "--detach") == 0
    assert exit_code_of(monkeypatch, "job", "again", "job_e3", "--detach") == 2

    assert [spec["array_size"] for spec in platform.sent] == [100]
    told = "job_e3 is element 3 of array job_1, and not run again alone; all of the array: "
    assert f"Error: {told}modelyard job again job_1\n" in capsys.readouterr().err


def test_the_list_says_how_far_an_array_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    reason = "queue default is paused"
    platform.listed = [
        an_array(RUNNING=10, SUCCEEDED=0, QUEUED=90),
        an_array(QUEUED=100, reason=reason, job_id="job_2"),
        a_job("QUEUED", job_id="job_3"),
    ]

    assert exit_code_of(monkeypatch, "job", "list") == 0

    lines = [cells(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["JOB", "NAME", "STATE", "AGE", "REASON"],
        ["job_1", "sweep", "QUEUED", "0s", "90 QUEUED, 10 RUNNING"],
        ["job_2", "sweep", "QUEUED", "0s", f"100 QUEUED; {reason}"],
        ["job_3", "sweep", "QUEUED", "0s", "submitted"],
    ]
    assert not {"array", "index"} & set(platform.asked[-1].params)


def test_an_arrays_elements_are_listed_with_their_indices(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.listed = [an_element(1), an_element(0, "FAILED", reason="exit code 1")]
    array = ("job", "list", "--array", "job_1")

    assert exit_code_of(monkeypatch, *array) == 0
    assert exit_code_of(monkeypatch, *array, "--index", "0") == 0

    lines = [cells(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == [
        ["JOB", "INDEX", "STATE", "AGE", "REASON"],
        ["job_e1", "1", "RUNNING", "0s", "submitted"],
        ["job_e0", "0", "FAILED", "0s", "exit code 1"],
    ]
    sought = [(url.params["array"], url.params.get("index")) for url in platform.asked]
    assert sought == [("job_1", None), ("job_1", "0")]


def test_a_list_of_what_is_no_array_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.listed = []
    platform.last = an_element(1)
    assert exit_code_of(monkeypatch, "job", "list", "--array", "job_e1") == 3
    assert "job_e1 is no array" in capsys.readouterr().err

    platform.last = an_array(QUEUED=10)
    assert exit_code_of(monkeypatch, "job", "list", "--array", "job_1") == 0


def test_an_index_needs_its_array(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    assert exit_code_of(monkeypatch, "job", "list", "--index", "0") == 2
    assert "--index needs --array" in capsys.readouterr().err
    assert platform.asked == []


def test_an_array_is_shown_with_its_elements_by_state(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.last = an_array(QUEUED=90, RUNNING=10)

    assert exit_code_of(monkeypatch, "job", "show", "job_1") == 0

    shown = dict(
        cells(line)[:2] for line in capsys.readouterr().out.splitlines() if cells(line)[1:]
    )
    assert shown["elements"] == "90 QUEUED, 10 RUNNING"
    assert not {"attempt", "retries", "element"} & shown.keys()


def test_an_element_is_shown_with_its_array_and_index(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.last = an_element(7)

    assert exit_code_of(monkeypatch, "job", "show", "job_e7") == 0

    shown = dict(
        cells(line)[:2] for line in capsys.readouterr().out.splitlines() if cells(line)[1:]
    )
    assert (shown["element"], shown["retries"]) == ("7 of job_1", "0 of 3")
    assert "elements" not in shown


def test_the_time_line_of_an_array_has_no_attempts_but_how_its_elements_stand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.last = an_array(QUEUED=90, RUNNING=10)

    assert exit_code_of(monkeypatch, "job", "timeline", "job_1") == 0

    events = [cells(line)[2] for line in capsys.readouterr().out.splitlines()]
    assert events == ["EVENT", "queued", "QUEUED: 90 QUEUED, 10 RUNNING"]


def test_what_is_newer_than_this_command_is_told_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform
) -> None:
    platform.listed = [an_array(FROZEN=1, SUCCEEDED=99)]

    assert exit_code_of(monkeypatch, "job", "list") == 0

    assert "99 SUCCEEDED, 1 FROZEN" in capsys.readouterr().out


def test_the_client_runs_no_element_again_alone(platform: Platform) -> None:
    platform.last = an_element(3)
    transport = httpx.MockTransport(platform.answer)
    with (
        Client("http://edge", "myk_1", transport=transport) as client,
        pytest.raises(ElementAlone, match="job_e3 is element 3 of array job_1"),
    ):
        client.submit_again("job_e3")
    assert platform.sent == []


def test_an_element_is_no_array_though_its_description_has_the_arrays_size() -> None:
    array, element = Job.model_validate(an_array(QUEUED=1)), Job.model_validate(an_element(3))
    of_its_array = element.model_copy(update={"spec": array.spec})
    assert [job.is_array for job in (array, element, of_its_array)] == [True, False, False]


def test_a_description_names_an_array_only_where_it_is_one() -> None:
    spec = JobSpec(name="n", image="i", command=["true"])
    assert "array_size" not in spec.described()
    assert spec.model_copy(update={"array_size": 1}).described()["array_size"] == 1
