"""How a command ends."""

import errno
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import httpx
import pytest
from modelyard.cli import main as cli
from modelyard.cli.job_file import SAMPLE
from modelyard.cli.jobs import outputs_of
from modelyard.cli.platform import status
from modelyard.cli.session import duration, size
from modelyard.cli.settings import CliSettings
from modelyard.client import JOB_STATES, ApiError, Client, ConnectionFailed, Job, JobSpec
from modelyard.scheduler.v1 import job_pb2
from typing_extensions import override

from tests.unit.sdk.command_line import exit_code_of


@pytest.fixture(autouse=True)
def _at_no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_URL", "http://edge")
    monkeypatch.delenv("MODELYARD_STATE", raising=False)
    monkeypatch.setattr(sys, "argv", ["modelyard", "status"])


def ends(monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> object:
    """Return the exit code of a command in which this happens."""

    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(status, "callback", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def an_unreadable_answer() -> BaseException:
    with pytest.raises(ValueError, match="Job") as raised:
        Job.model_validate({})
    return raised.value


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (ApiError(404, {"code": "NOT_FOUND", "detail": "no job x"}), 3, "NOT_FOUND"),
        (ConnectionFailed("http://edge: refused"), 4, "http://edge"),
        (an_unreadable_answer(), 4, "no Job of Modelyard's"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_each_failure_has_its_code_and_a_sentence(
    failure: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ends(monkeypatch, failure) == code
    assert text in capsys.readouterr().err


def test_a_reader_that_has_left_is_no_failed_job(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        """Standard output that nobody reads any more."""

        @override
        def write(self, _: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "gone")

    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr(sys, "argv", ["modelyard", "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 141


A_FAILURE = {"reason": "exit_code", "message": "7", "exit_code": 7, "last_lines": ""}


def a_job(state: str) -> dict[str, object]:
    return {
        "id": "job_1",
        "spec": {"name": "n", "image": "i", "command": ["true"]},
        "state": state,
        "reason": "exit code 0",
        "version": 1,
        "attempt_number": 0,
        "attempt_id": "",
        "node_id": "",
        "progress": None,
        "failure": None,
        "created_at": "2026-01-01T00:00:00Z",
        "started_at": None,
        "ended_at": None,
        "trace_id": "",
    }


def seen_as(state: str, reason: str, attempt_number: int) -> dict[str, object]:
    return a_job(state) | {"reason": reason, "attempt_number": attempt_number}


COMPLETE = "event: complete\ndata: {}\n\n"
QUIET = "event: quiet\ndata: {}\n\n"
A_LINE = (
    'id: 1.42\nevent: log\ndata: {"position": "1.42", "attempt_id": "att_1", "attempt_number": 1, '
    '"sequence": 42, "stream": "stdout", "time": "2026-01-01T00:00:00Z", "text": "x", '
    '"is_gap": false}\n\n'
)


def a_platform(
    monkeypatch: pytest.MonkeyPatch, *seen: dict[str, object], output: str = COMPLETE
) -> None:
    """Answer as one whose job looks so, one look after the other; then it has succeeded."""
    looks = iter(seen)

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/logs"):
            return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text=output)
        if request.url.path == "/readyz":
            ailing = {"ready": True, "advisories": {"kafka": "kafka is not available"}}
            return httpx.Response(200, json=ailing)
        if request.url.path == "/v1/jobs/check":
            return httpx.Response(204)
        if request.url.path == "/v1/artifacts":
            return httpx.Response(201, json={"digest": "sha256:0"})
        return httpx.Response(200, json=next(looks, a_job("SUCCEEDED")))

    transport = httpx.MockTransport(handler)
    at_once = partial(Client, transport=transport, sleep=lambda _: None)
    monkeypatch.setattr("modelyard.cli.main.Client", at_once)


Answer = dict[str, object] | str | httpx.TransportError
"""A job or a problem; a stream's events; no answer."""
AWAY: Answer = {"status": 503, "code": "UNAVAILABLE", "detail": "scheduler is not available"}
NO_JOB: Answer = {"status": 404, "code": "NOT_FOUND", "detail": "no job job_1"}
GONE: Answer = httpx.ConnectError("refused")


def a_platform_that_falters(
    monkeypatch: pytest.MonkeyPatch,
    *,
    looks: list[Answer],
    streams: list[Answer],
    sleep: Callable[[float], None] = lambda _: None,
) -> None:
    """Take a job in, and answer so to each look at it and to each follower; then it succeeds."""
    seen, opened = iter(looks), iter(streams)

    def handler(request: httpx.Request) -> httpx.Response:
        match request.method, request.url.path:
            case "POST", "/v1/jobs/check":
                return httpx.Response(204)
            case "POST", "/v1/artifacts":
                return httpx.Response(201, json={"digest": "sha256:0"})
            case "POST", _:
                return httpx.Response(202, json=seen_as("QUEUED", "submitted", 0))
            case _, "/readyz":
                return httpx.Response(200, json={"ready": True})
            case _, "/v1/jobs/job_1/logs":
                answer = next(opened, COMPLETE)
            case _:
                answer = next(seen, a_job("SUCCEEDED"))
        if isinstance(answer, httpx.TransportError):
            raise answer
        if isinstance(answer, str):
            events = {"Content-Type": "text/event-stream"}
            return httpx.Response(200, headers=events, text=answer)
        return httpx.Response(cast("int", answer.get("status", 200)), json=answer)

    at_once = partial(Client, transport=httpx.MockTransport(handler), sleep=sleep)
    monkeypatch.setattr("modelyard.cli.main.Client", at_once)


@pytest.mark.parametrize(
    "check",
    [
        httpx.Response(204),
        httpx.Response(405, json={"code": "UNIMPLEMENTED", "detail": "POST is not offered"}),
        httpx.Response(501, json={"code": "UNIMPLEMENTED", "detail": "not offered"}),
    ],
    ids=["offered", "a gateway of before", "a scheduler of before"],
)
def test_a_folder_is_sent_once_the_job_could_be_taken_in(
    check: httpx.Response, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/v1/artifacts":
            asked.append((path, ""))
            return httpx.Response(201, json={"digest": "sha256:0"})
        asked.append((path, json.loads(request.content)["source_digest"]))
        return check if path == "/v1/jobs/check" else httpx.Response(202, json=a_job("QUEUED"))

    at_once = partial(Client, transport=httpx.MockTransport(answer), sleep=lambda _: None)
    monkeypatch.setattr("modelyard.cli.main.Client", at_once)
    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--detach", "--", "true") == 0
    assert asked == [("/v1/jobs/check", ""), ("/v1/artifacts", ""), ("/v1/jobs", "sha256:0")]


def test_a_dry_run_tells_what_would_be_sent_and_whether_the_job_would_be_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked: list[tuple[str, dict[str, int]]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.path, json.loads(request.content)["resources"]))
        return httpx.Response(204)

    at_once = partial(Client, transport=httpx.MockTransport(answer), sleep=lambda _: None)
    monkeypatch.setattr("modelyard.cli.main.Client", at_once)
    (tmp_path / "train.py").write_text("pass")
    (tmp_path / "notes").write_text("x")
    (tmp_path / ".modelyardignore").write_text("notes\n")
    options = ("--dry-run", "--gpus", "2")
    assert exit_code_of(monkeypatch, "run", str(tmp_path), *options, "--", "true") == 0
    assert [path for path, _ in asked] == ["/v1/jobs/check"]
    assert asked[0][1]["gpu_count"] == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("it would send 2 files, ")
    assert said[0].endswith(", without notes")
    assert said[1:] == ["it would be taken"]


@pytest.mark.parametrize("key", ["ü", "a b", "a\nb", ""])
def test_what_can_be_no_key_is_refused_before_anything_is_sent(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ("--idempotency-key", key)
    assert exit_code_of(monkeypatch, "run", str(tmp_path), *options, "--", "true") == 2
    assert "--idempotency-key" in (told := capsys.readouterr().err)
    assert "must be 1 to 200 printable ASCII characters" in told


def test_an_empty_name_is_not_the_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        names.append(json.loads(request.content)["name"])
        return httpx.Response(422, json={"code": "INVALID_ARGUMENT"})

    at_once = partial(Client, transport=httpx.MockTransport(answer), sleep=lambda _: None)
    monkeypatch.setattr("modelyard.cli.main.Client", at_once)
    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--name", "", "--", "true") == 3
    assert names == [""]


@pytest.mark.parametrize(("queued_for", "is_told"), [(0, False), (5, False), (60, True)])
def test_a_job_that_waits_for_room_is_told_of_once(
    queued_for: int,
    is_told: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    a_platform(monkeypatch, *[a_job("QUEUED") | {"reason": "submitted"}] * queued_for)
    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--", "true") == 0
    assert capsys.readouterr().err.count("it stands in line") == is_told


def test_what_a_job_waits_for_is_told_at_each_change_until_it_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    preparing = "preparing its container"
    missing = f"{preparing}; tried again: no image i: its registry does not answer"
    looks = [
        *[("QUEUED", "submitted", 0)] * 30,
        ("QUEUED", "tenant is suspended", 0),
        *[("STARTING", preparing, 1)] * 40,
        *[("STARTING", missing, 1)] * 40,
        ("RUNNING", "started", 1),
        ("RUNNING", "never looked at", 1),
    ]
    a_platform(monkeypatch, *[seen_as(*look) for look in looks])
    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--", "true") == 0
    assert capsys.readouterr().err.splitlines()[2:] == [
        "job job_1 QUEUED: it stands in line; why: modelyard job explain job_1",
        "job job_1 QUEUED: tenant is suspended",
        f"job job_1 STARTING: {preparing}",
        f"job job_1 STARTING: {missing}",
        "job job_1 SUCCEEDED: exit code 0",
    ]


@pytest.mark.parametrize("over", [("QUEUED", "retry 1 of 3", 1), ("STARTING", "again", 2)])
def test_output_of_an_attempt_that_is_over_does_not_wait_for_the_next_one(
    over: tuple[str, str, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    a_platform(monkeypatch, *[seen_as("QUEUED", "submitted", 0)] * 30, seen_as(*over))
    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--", "true") == 0
    assert over[1] not in capsys.readouterr().err


def test_output_that_does_not_come_is_told_of_with_what_ails_and_given_up_after_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    failed = a_job("FAILED") | {"failure": A_FAILURE}
    a_platform(
        monkeypatch,
        *[seen_as("RUNNING", "started", 1)] * 4,  # submitted, and three quiet whiles
        *[failed] * 5,
        output=QUIET * 7,
    )
    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--", "true") == 7
    why = "; kafka: kafka is not available"
    assert capsys.readouterr().err.splitlines()[2:] == [
        f"job job_1 prints nothing (RUNNING: started){why}",
        f"job job_1 has ended, its output is not complete (FAILED: exit code 0){why}",
        "job job_1 its output is not complete, and no more comes; "
        f"what comes later: modelyard job logs job_1{why}",
        "job job_1 FAILED: exit code 0",
    ]


def test_output_of_an_ended_job_that_can_not_be_complete_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_platform(monkeypatch, output=QUIET * 7)
    assert exit_code_of(monkeypatch, "job", "logs", "job_1", "--follow") == 0
    why = "; kafka: kafka is not available"
    assert capsys.readouterr().err.splitlines() == [
        f"job job_1 has ended, its output is not complete (SUCCEEDED: exit code 0){why}",
        "job job_1 its output is not complete, and no more comes; "
        f"what comes later: modelyard job logs job_1{why}",
    ]


def test_output_of_an_ended_job_that_is_complete_ends_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_platform(monkeypatch, output=COMPLETE)
    assert exit_code_of(monkeypatch, "job", "logs", "job_1", "--follow") == 0
    assert capsys.readouterr().err == ""


def test_a_job_that_prints_nothing_for_long_is_followed_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    running = seen_as("RUNNING", "started", 1)
    a_platform(monkeypatch, *[running] * 101, output=QUIET * 100 + COMPLETE)
    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--", "true") == 0
    assert capsys.readouterr().err.count("prints nothing") == 1


def test_a_job_in_line_is_waited_for_while_nobody_can_tell_what_it_is_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    looks = [*[AWAY] * 40, seen_as("QUEUED", "submitted", 0), *[AWAY] * 40]
    a_platform_that_falters(monkeypatch, looks=looks, streams=[AWAY] * 30)
    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--", "true") == 0
    assert capsys.readouterr().err.splitlines()[2:] == [
        *["job job_1: what it is at can't be told: scheduler is not available; asking on"] * 2,
        "job job_1 SUCCEEDED: exit code 0",
    ]


def test_how_a_job_ended_is_asked_on_for_while_nobody_can_tell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    looks = [seen_as("RUNNING", "started", 1), *[AWAY] * 40]
    a_platform_that_falters(monkeypatch, looks=looks, streams=[])
    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--", "true") == 0
    assert "job job_1 SUCCEEDED" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("looks", "streams", "code"),
    [
        ([AWAY] * 1000, [], 3),
        ([GONE] * 1000, [], 4),
        ([seen_as("RUNNING", "started", 1)], [GONE] * 1000, 4),
        ([seen_as("RUNNING", "started", 1), *[AWAY] * 1000], [], 3),
    ],
    ids=["scheduler away in line", "gateway away in line", "no stream", "away at the end"],
)
def test_run_that_gives_up_says_that_the_job_goes_on_and_how_to_follow_it(
    *,
    looks: list[Answer],
    streams: list[Answer],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    a_platform_that_falters(monkeypatch, looks=looks, streams=streams)
    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--", "true") == code
    assert capsys.readouterr().err.splitlines()[-2] == (
        "the job goes on; to follow it: modelyard job logs -f job_1"
    )


@pytest.mark.parametrize(
    ("looks", "streams"),
    [([AWAY] * 1000, []), ([GONE] * 1000, []), ([seen_as("RUNNING", "started", 1)], [GONE] * 1000)],
    ids=["scheduler away in line", "gateway away in line", "no stream"],
)
def test_nobody_gives_up_before_two_minutes_of_pauses(
    looks: list[Answer], streams: list[Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pauses: list[float] = []
    a_platform_that_falters(monkeypatch, looks=looks, streams=streams, sleep=pauses.append)
    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--", "true") in {3, 4}
    assert 120 <= sum(pauses) < 150


def test_a_follower_that_gives_up_says_from_where_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    streams = [A_LINE, *[GONE] * 1000]
    a_platform_that_falters(monkeypatch, looks=[], streams=streams)
    assert exit_code_of(monkeypatch, "job", "logs", "-f", "job_1") == 4
    assert "to follow it: modelyard job logs -f job_1 --after 1.42" in capsys.readouterr().err


@pytest.mark.parametrize("away", [AWAY, GONE], ids=["scheduler", "gateway"])
def test_a_follower_that_begins_while_nobody_can_tell_waits_as_run_does(
    away: Answer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_platform_that_falters(
        monkeypatch, looks=[away] * 40, streams=[*[away] * 30, A_LINE + COMPLETE]
    )
    assert exit_code_of(monkeypatch, "job", "logs", "-f", "job_1") == 0
    said = capsys.readouterr()
    assert said.out == "x\n"
    assert said.err.count("job job_1: what it is at can't be told: ") == 1


def test_a_follower_of_quiet_output_that_gives_up_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    streams = [QUIET, *[GONE] * 1000]
    a_platform_that_falters(monkeypatch, looks=[seen_as("RUNNING", "started", 1)], streams=streams)
    assert exit_code_of(monkeypatch, "job", "logs", "-f", "job_1", "--after", "1.7") == 4
    assert "to follow it: modelyard job logs -f job_1 --after 1.7\n" in capsys.readouterr().err


@pytest.mark.parametrize("looks", [[GONE] * 1000, [NO_JOB]], ids=["no platform", "no job"])
def test_of_a_job_that_was_never_seen_it_is_not_said_that_it_goes_on(
    looks: list[Answer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_platform_that_falters(monkeypatch, looks=looks, streams=[])
    assert exit_code_of(monkeypatch, "job", "logs", "-f", "job_1") in {3, 4}
    assert "goes on" not in capsys.readouterr().err


def test_a_job_that_is_deleted_meanwhile_does_not_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    a_platform_that_falters(monkeypatch, looks=[NO_JOB], streams=[])
    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--", "true") == 3
    assert "goes on" not in capsys.readouterr().err


def test_a_user_who_stops_following_hears_that_the_job_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    a_platform(monkeypatch)
    monkeypatch.setattr(Client, "follow_logs", interrupt)
    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--", "true") == 130
    assert "modelyard job cancel job_1" in capsys.readouterr().err


def test_what_is_wrong_with_a_spec_is_told_field_by_field(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text('{"name": 1, "image": "i"}')
    assert exit_code_of(monkeypatch, "job", "submit", str(spec)) == 2
    said = capsys.readouterr().err
    assert f"{spec}: name: must be text; command: is missing" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"prio": 1}', "prio: is no field of this request; priority is one"),
        ('{"resources": {"cpu": 1}}', "resources.cpu: is no field of this request"),
        ('{"inputs": [{"path": "x"}]}', "inputs[0].path: is no field of this request"),
        ('{"priority": true}', "priority: must not be a boolean"),
        ('{"retries": {"exit_codes": [true]}}', "retries.exit_codes[0]: must not be a boolean"),
        ("name: yaml", "Invalid JSON"),
        ('{"timeouts": {"run": "5m"}}', "timeouts.run: must be an ISO 8601 duration"),
        ('{"retries": {"count_max": 1.5}}', "retries.count_max: must be a whole number"),
        ("[]", "must be an object"),
        ('{"name": "a", "name": "b"}', "name: is given twice"),
        ('{"env": {"A": "1", "A": "2"}}', "A: is given twice"),
        ("[" * 10_000, "Invalid JSON"),
    ],
)
def test_a_job_file_that_is_none_is_told_with_file_and_field(
    content: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    spec = tmp_path / "job.json"
    spec.write_text(content)
    assert exit_code_of(monkeypatch, "job", "submit", str(spec)) == 2
    told = capsys.readouterr().err
    assert str(spec) in told
    assert said in told


@pytest.mark.parametrize("name", ["gone.json", "."], ids=["missing", "unreadable"])
def test_a_job_file_that_cannot_be_read_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    assert exit_code_of(monkeypatch, "job", "submit", str(path)) == 2
    assert str(path) in capsys.readouterr().err


def test_the_sample_of_a_job_file_is_whole_and_in_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(monkeypatch, "job", "submit", "--help") == 0
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert all(line.strip() in shown for line in SAMPLE.splitlines())
    assert json.loads(SAMPLE).keys() == JobSpec.model_fields.keys()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cpu", "0"], "--cpu"),
        (["--memory", "5M"], "at least 6M"),
        (["--time-out", "0"], "--time-out"),
        (["--time-out", "604801"], "--time-out"),
        (["--array", "0"], "--array"),
        (["--array", "10001"], "--array"),
        (["--label", "team"], "'team' is not NAME=VALUE"),
        (["--label", "a=1", "--label", "a=2"], "'a' is given twice"),
        (["--env", "1A=x"], "'1A' is no variable's name"),
        (["--output", "../m"], "'../m' is no path below $MODELYARD_OUTPUTS"),
        (["--output", "/m"], "'/m' is no path"),
        (["--output", "m:a b"], "'a b' is no model's name"),
    ],
)
def test_options_that_are_wrong_are_refused_before_anything_is_sent(
    options: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def never(path: str) -> httpx.Response:
        raise AssertionError(path)

    answering(monkeypatch, never)
    assert exit_code_of(monkeypatch, "run", str(tmp_path), *options, "--", "true") == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("outputs[1].path", "--output b/c:model"),
        ("outputs[0].path", "--output a"),
        ("outputs", "--output"),
        ("env.A", "--env A"),
        ("resources.memory_bytes", "--memory"),
        ("resources.cpu_millicores", "--cpu"),
        ("timeouts.run", "--time-out"),
        ("labels.team.of", "--label team.of"),
        ("queue", "--queue"),
        ("after[0].job_id", "--after job_1"),
        ("after[1].job_id", "--after-end job_2"),
        ("after", "--after"),
        ("tasks", "--tasks"),
        ("array_size", "--array"),
        ("inputs", "inputs"),
    ],
)
def test_what_run_is_refused_for_is_told_by_the_option(
    field: str,
    option: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    sent: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/jobs/check", "nothing is sent for what is refused"
        sent.append(json.loads(request.content))
        errors = [{"field": field, "problem": "is wrong"}]
        problem = {"code": "INVALID_ARGUMENT", "detail": f"{field}: is wrong", "errors": errors}
        return httpx.Response(422, json=problem)

    at_once = partial(Client, transport=httpx.MockTransport(answer), sleep=lambda _: None)
    monkeypatch.setattr("modelyard.cli.main.Client", at_once)
    outputs = ("--output", "a", "--output", "b/c:model")
    jobs = ("--after-end", "job_2", "--after", "job_1")
    options = (*outputs, *jobs, "--env", "A=1", "--queue", "nightly")

    assert exit_code_of(monkeypatch, "run", str(tmp_path), *options, "--", "true") == 3
    assert f"refused (INVALID_ARGUMENT): {option}: is wrong\n" in capsys.readouterr().err
    assert [output["name"] for output in sent[0]["outputs"]] == ["a", "model"]
    assert sent[0]["queue"] == "nightly"


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("name", "NAME"),
        ("model", "MODEL"),
        ("replica_count", "--replicas"),
        ("resources.memory_bytes", "--memory"),
        ("image", "--image"),
        ("page", "page"),
    ],
)
def test_what_a_deployment_is_refused_for_is_told_by_the_option(
    field: str, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = [{"field": field, "problem": "is wrong"}]
    problem = {"code": "INVALID_ARGUMENT", "detail": f"{field}: is wrong", "errors": errors}
    answering(monkeypatch, lambda _: httpx.Response(422, json=problem))

    assert exit_code_of(monkeypatch, "deploy", "create", "digits", "models:/digits/1") == 3
    assert f"refused (INVALID_ARGUMENT): {option}: is wrong\n" in capsys.readouterr().err


def test_the_states_of_jobs_are_in_the_help_and_no_others_are_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.extend(request.url.params.get_list("state"))
        return httpx.Response(200, json={"jobs": [], "next_page_token": ""})

    transport = httpx.MockTransport(answer)
    monkeypatch.setattr("modelyard.cli.main.Client", partial(Client, transport=transport))
    assert exit_code_of(monkeypatch, "job", "list", "--help") == 0
    shown = capsys.readouterr().out
    assert all(state in shown for state in JOB_STATES)
    assert exit_code_of(monkeypatch, "job", "list", "--state", "running", "--state", "FAILED") == 0
    assert asked == ["RUNNING", "FAILED"]
    assert exit_code_of(monkeypatch, "job", "list", "--state", "pending") == 2


def test_jobs_are_listed_by_all_labels_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.extend(request.url.params.get_list("label"))
        return httpx.Response(200, json={"jobs": [], "next_page_token": ""})

    transport = httpx.MockTransport(answer)
    monkeypatch.setattr("modelyard.cli.main.Client", partial(Client, transport=transport))
    labels = ("--label", "team=vision", "--label", "note=a=b")
    assert exit_code_of(monkeypatch, "job", "list", *labels) == 0
    assert asked == ["team=vision", "note=a=b"]


def test_jobs_are_listed_by_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params.get_list("queue"))
        return httpx.Response(200, json={"jobs": [], "next_page_token": ""})

    transport = httpx.MockTransport(answer)
    monkeypatch.setattr("modelyard.cli.main.Client", partial(Client, transport=transport))
    assert exit_code_of(monkeypatch, "job", "list", "--queue", "nightly") == 0
    assert exit_code_of(monkeypatch, "job", "list") == 0
    assert asked == [["nightly"], []]


RUN_BEFORE = {
    "name": "n",
    "image": "i",
    "command": ["python", "train.py"],
    "env": {"A": "1", "B": "2"},
    "labels": {"team": "vision"},
    "priority": 50,
    "source_digest": "sha256:0",
    "resources": {"cpu_millicores": 500, "memory_bytes": 1 << 30, "gpu_count": 0, "newer": 1},
    "timeouts": {"run": "PT5M", "stop_grace": "PT10S"},
    "newer": {"than": "this client"},
}


def a_platform_that_ran_it_before(
    monkeypatch: pytest.MonkeyPatch,
    *,
    refuses: str = "",
    before: dict[str, Any] = RUN_BEFORE,
) -> list[dict[str, Any]]:
    """Answer as one that has a job, and takes another one in or refuses its field."""
    submitted: list[dict[str, Any]] = []
    ran = a_job("FAILED") | {"spec": before}

    def handler(request: httpx.Request) -> httpx.Response:
        match request.method, request.url.path:
            case "POST", "/v1/jobs" if refuses:
                errors = [{"field": refuses, "problem": "is wrong"}]
                problem = {"code": "INVALID_ARGUMENT", "detail": "", "errors": errors}
                return httpx.Response(422, json=problem)
            case "POST", "/v1/jobs":
                submitted.append(json.loads(request.content))
                return httpx.Response(202, json=a_job("QUEUED") | {"id": "job_2"})
            case "GET", "/v1/jobs/job_1":
                return httpx.Response(200, json=ran)
            case "GET", "/v1/jobs/job_2":
                ended = a_job("FAILED") | {"id": "job_2", "failure": A_FAILURE}
                return httpx.Response(200, json=ended)
            case _:
                events = {"Content-Type": "text/event-stream"}
                return httpx.Response(200, headers=events, text=A_LINE + COMPLETE)

    at_once = partial(Client, transport=httpx.MockTransport(handler), sleep=lambda _: None)
    monkeypatch.setattr("modelyard.cli.main.Client", at_once)
    return submitted


def test_a_job_is_run_again_as_it_was_and_followed_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted = a_platform_that_ran_it_before(monkeypatch)

    assert exit_code_of(monkeypatch, "job", "again", "job_1") == 7
    assert submitted == [RUN_BEFORE]
    told = capsys.readouterr()
    assert "job job_2 FAILED" in told.err
    assert told.out


def test_what_a_job_waited_for_is_not_waited_for_again_but_what_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited = {**RUN_BEFORE, "after": [{"job_id": "job_0", "condition": "SUCCESS"}]}
    submitted = a_platform_that_ran_it_before(monkeypatch, before=waited)
    again = ("job", "again", "job_1", "--detach")

    assert exit_code_of(monkeypatch, *again) == 0
    assert exit_code_of(monkeypatch, *again, "--after", "job_7", "--after-end", "job_8") == 0
    assert [spec["after"] for spec in submitted] == [
        [],
        [
            {"job_id": "job_7", "condition": "SUCCESS"},
            {"job_id": "job_8", "condition": "END"},
        ],
    ]


def test_a_job_is_run_again_with_what_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted = a_platform_that_ran_it_before(monkeypatch)
    options = ("--name", "m", "--priority", "0", "--env", "B=3", "--env", "C=", "--label", "run=2")
    more = ("--queue", "nightly", "--tasks", "8", "--array", "100", "--image", "j")
    larger = ("--memory", "4G", "--gpus", "2", "--time-out", "600")
    command = ("--", "python", "-c", "pass")

    assert (
        exit_code_of(
            monkeypatch, "job", "again", "job_1", "--detach", *options, *more, *larger, *command
        )
        == 0
    )
    assert submitted == [
        RUN_BEFORE
        | {
            "name": "m",
            "priority": 0,
            "env": {"A": "1", "B": "3", "C": ""},
            "labels": {"team": "vision", "run": "2"},
            "queue": "nightly",
            "tasks": 8,
            "array_size": 100,
            "image": "j",
            "resources": {
                "cpu_millicores": 500,
                "memory_bytes": 4 << 30,
                "gpu_count": 2,
                "newer": 1,
            },
            "timeouts": {"run": "PT10M", "stop_grace": "PT10S"},
            "command": ["python", "-c", "pass"],
        }
    ]


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("env.B", "--env B"),
        ("labels.run", "--label run"),
        ("after", "--after"),
        ("queue", "--queue"),
        ("tasks", "--tasks"),
        ("array_size", "--array"),
        ("Idempotency-Key", "--idempotency-key"),
        ("image", "--image"),
        ("resources.memory_bytes", "--memory"),
        ("timeouts.run", "--time-out"),
        ("outputs", "outputs"),
        ("name", "--name"),
    ],
)
def test_what_a_job_is_not_run_again_for_is_told_by_the_option_if_there_is_one(
    field: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_platform_that_ran_it_before(monkeypatch, refuses=field)

    assert exit_code_of(monkeypatch, "job", "again", "job_1") == 3
    assert f"refused (INVALID_ARGUMENT): {told}: is wrong\n" in capsys.readouterr().err


def test_the_states_of_jobs_are_the_schedulers() -> None:
    states = [name.removeprefix("JOB_STATE_") for name in job_pb2.JobState.keys()]  # noqa: SIM118
    assert states == ["UNSPECIFIED", *JOB_STATES]


@pytest.mark.parametrize("job_id", ["a/b", ".."])
def test_what_can_be_no_id_is_wrong_usage(
    job_id: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(monkeypatch, "job", "show", job_id) == 2
    assert f"{job_id!r} is no name or id" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "name"),
    [("m.bin", "m.bin"), ("sub/m.bin", "sub-m.bin"), (".x", "x"), ("--", "output")],
)
def test_an_output_has_a_name_whatever_its_path(path: str, name: str) -> None:
    [output] = outputs_of((path,))
    assert (output.name, output.path, output.register_as) == (name, path, "")


@pytest.mark.parametrize("output", [":model", "m.bin:", ":", ""])
def test_an_output_that_lacks_its_path_or_announced_model_is_wrong_usage(output: str) -> None:
    with pytest.raises(click.BadParameter, match="is not PATH or PATH:MODEL"):
        outputs_of((output,))


@pytest.mark.parametrize("pair", ["A", "=1", "=", ""])
def test_a_variable_without_a_name_is_wrong_usage(
    pair: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--env", pair, "--", "true") == 2
    assert f"{pair!r} is not NAME=VALUE" in capsys.readouterr().err


def test_a_job_is_shown_with_what_was_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {
        "name": "n",
        "image": "modelyard/base",
        "command": ["python", "-c", "print('a')\nprint('b')"],
        "resources": {"cpu_millicores": 500, "memory_bytes": 256 << 20, "gpu_count": 1},
        "timeouts": {"queue": "PT1H", "run": "PT90M", "stop_grace": "PT0.5S"},
        "retries": {"count_max": 2, "reasons": ["killed"], "exit_codes": [75]},
        "priority": 70,
        "labels": {"team": "vision", "stage": "train"},
        "queue": "nightly",
        "after": [
            {"job_id": "job_2", "condition": "SUCCESS"},
            {"job_id": "job_3", "condition": "END"},
        ],
    }
    answering(monkeypatch, lambda _: httpx.Response(200, json=a_job("RUNNING") | {"spec": spec}))

    assert exit_code_of(monkeypatch, "job", "show", "job_1") == 0
    lines = capsys.readouterr().out.splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines if len(line.split()) > 1)
    assert shown["state"] == "RUNNING"
    assert shown["image"] == "modelyard/base"
    assert shlex.split(shown["command"])[:2] == ["python", "-c"]
    assert shown["resources"] == "cpu 500, memory 256 MiB, gpus 1"
    assert shown["queue"] == "nightly"
    assert shown["priority"] == "70"
    assert shown["labels"] == "stage=train, team=vision"
    assert shown["time-outs"] == "queue 1h, start -, run 90m, stop grace 0.5s"
    assert shown["retries"] == "0 of 2"
    assert shown["after"] == "job_2 (success), job_3 (end)"
    assert lines[-2].split(maxsplit=2)[2] == "failures of the platform, killed, exit code 75"


def test_a_job_that_waits_for_others_is_shown_with_those_that_are_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = a_job("QUEUED") | {"needs": [{"job_id": "job_3", "condition": "END"}]}
    answering(monkeypatch, lambda _: httpx.Response(200, json=waiting))

    assert exit_code_of(monkeypatch, "job", "show", "job_1") == 0
    assert "waits for      job_3 (end)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "after"),
    [
        ((), None),  # an older platform would refuse the field
        (
            ("--after-end", "job_3", "--after", "job_1", "--after", "job_2"),
            [
                {"job_id": "job_1", "condition": "SUCCESS"},
                {"job_id": "job_2", "condition": "SUCCESS"},
                {"job_id": "job_3", "condition": "END"},
            ],
        ),
    ],
)
def test_run_says_what_a_job_waits_for_only_where_it_does(
    options: tuple[str, ...],
    after: list[dict[str, str]] | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    sent: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/jobs/check":
            sent.append(json.loads(request.content))
            return httpx.Response(204)
        if request.url.path == "/v1/jobs":
            sent.append(json.loads(request.content))
            return httpx.Response(202, json=a_job("QUEUED"))
        return httpx.Response(201, json={"digest": "sha256:0"})

    at_once = partial(Client, transport=httpx.MockTransport(answer), sleep=lambda _: None)
    monkeypatch.setattr("modelyard.cli.main.Client", at_once)
    command = ("run", str(tmp_path), "--detach", *options, "--", "true")

    assert exit_code_of(monkeypatch, *command) == 0
    assert [spec.get("after") for spec in sent] == [after, after]


@pytest.mark.parametrize(
    ("options", "tasks"),
    [((), None), (("--tasks", "8"), 8)],  # an older platform would refuse the field
)
def test_run_says_how_many_tasks_a_job_has_only_where_there_are_several(
    options: tuple[str, ...],
    tasks: int | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    sent: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/jobs/check":
            return httpx.Response(204)
        if request.url.path == "/v1/jobs":
            sent.append(json.loads(request.content))
            return httpx.Response(202, json=a_job("QUEUED"))
        return httpx.Response(201, json={"digest": "sha256:0"})

    at_once = partial(Client, transport=httpx.MockTransport(answer), sleep=lambda _: None)
    monkeypatch.setattr("modelyard.cli.main.Client", at_once)

    command = ("run", str(tmp_path), "--detach", *options, "--", "true")
    assert exit_code_of(monkeypatch, *command) == 0
    assert [spec.get("tasks") for spec in sent] == [tasks]


@pytest.mark.parametrize("how", [(), ("--follow",)])
def test_output_of_one_task_is_asked_for(
    how: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/logs"):
            return httpx.Response(200, json=a_job("SUCCEEDED"))
        asked.append(request.url.params.get("task"))
        if "follow" in request.url.params:
            headers = {"Content-Type": "text/event-stream"}
            return httpx.Response(200, headers=headers, text="event: complete\ndata: {}\n\n")
        page = {"records": [], "next": "", "is_complete": True}
        return httpx.Response(200, json=page)

    at_once = partial(Client, transport=httpx.MockTransport(answer), sleep=lambda _: None)
    monkeypatch.setattr("modelyard.cli.main.Client", at_once)
    assert exit_code_of(monkeypatch, "job", "logs", "job_1", *how, "--task", "3") == 0
    assert exit_code_of(monkeypatch, "job", "logs", "job_1", *how) == 0
    assert asked == ["3", None]


@pytest.mark.parametrize(
    ("basis", "words"),
    [
        ({"estimate_basis": "LIMITS"}, ", by run time limits"),
        ({"estimate_basis": "HISTORY"}, ", by how long such jobs took"),
        ({}, ""),  # an older platform
    ],
)
def test_why_a_job_waits_is_told_with_what_helps_and_about_when_it_starts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    basis: dict[str, str],
    words: str,
) -> None:
    told = {
        "job_id": "job_1",
        "state": "QUEUED",
        "hold": "RESOURCES",
        "because": "no node has room for it: the best one is short of gpu_count 2",
        "helped_by": "the end of what runs",
        "jobs_before": 3,
        "estimated_start_at": "2026-01-01T10:00:00Z",
        **basis,
    }

    def answer(path: str) -> httpx.Response:
        assert path == "/v1/jobs/job_1/explain"
        return httpx.Response(200, json=told)

    answering(monkeypatch, answer)
    assert exit_code_of(monkeypatch, "job", "explain", "job_1") == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [re.split(r"  +", line, maxsplit=1) for line in lines]
    assert shown == [
        ["state", "QUEUED"],
        ["because", "no node has room for it: the best one is short of gpu_count 2"],
        ["held by", "RESOURCES"],
        ["helped by", "the end of what runs"],
        ["before it", "3"],
        ["starts", f"about 2026-01-01T10:00Z{words}"],
    ]


def test_why_a_deployments_replicas_wait_is_told_with_how_many_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {
        "deployment_id": "dep_1",
        "state": "SERVING",
        "waiting_count": 2,
        "hold": "RESOURCES",
        "because": "no node has room for it: the best one is short of gpu_count 2",
        "helped_by": "the end of what runs",
        "estimated_start_at": None,
        "estimate_basis": None,
    }

    def answer(path: str) -> httpx.Response:
        assert path == "/v1/deployments/digits/explain"
        return httpx.Response(200, json=told)

    answering(monkeypatch, answer)
    assert exit_code_of(monkeypatch, "deploy", "explain", "digits") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.split(r"  +", line, maxsplit=1) for line in lines] == [
        ["state", "SERVING"],
        ["because", "no node has room for it: the best one is short of gpu_count 2"],
        ["held by", "RESOURCES"],
        ["helped by", "the end of what runs"],
        ["waiting", "2"],
        ["starts", "-"],
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(86_400, "1d"), (3_600, "1h"), (90, "90s"), (0, "0s"), (None, "-")]
)
def test_a_duration_is_shown_in_whole_units(seconds: int | None, shown: str) -> None:
    assert duration(None if seconds is None else timedelta(seconds=seconds)) == shown


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (12_345, "12.1 KiB"),
        (64 << 20, "64 MiB"),
        (3 << 39, "1.5 TiB"),
    ],
)
def test_a_size_is_shown_in_its_largest_unit(size_bytes: int, shown: str) -> None:
    assert size(size_bytes) == shown


@pytest.mark.parametrize(
    ("reason", "message", "shown"),
    [
        ("outputs", "outputs: 'left' is an empty folder", "outputs: 'left' is an empty folder"),
        ("outputs", "output m.bin was not found", "outputs: output m.bin was not found"),
        ("exit_code", "exit code 3", "exit_code: exit code 3"),
    ],
)
def test_why_a_job_failed_is_told_once(
    reason: str,
    message: str,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failure = A_FAILURE | {"reason": reason, "message": message}
    failed = a_job("FAILED") | {"failure": failure}
    answering(monkeypatch, lambda _: httpx.Response(200, json=failed))

    assert exit_code_of(monkeypatch, "job", "show", "job_1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines if line.startswith("failure")] == [shown]


def test_what_is_no_trace_id_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELYARD_JAEGER_URL", "http://nowhere")
    assert exit_code_of(monkeypatch, "trace", "show", "nonsense") == 2
    assert "TRACE_ID: must be 32 hexadecimal digits" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["ünï", "myk_a\nb"])
def test_what_can_be_no_key_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    monkeypatch.setenv("MODELYARD_API_KEY", key)
    assert exit_code_of(monkeypatch, "status") == 2
    assert "MODELYARD_API_KEY: an API key has printable ASCII" in capsys.readouterr().err


def test_without_a_key_the_platform_is_asked_without_one() -> None:
    asked: list[httpx.Request] = []

    def unauthenticated(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(401, json={"code": "UNAUTHENTICATED", "detail": "who?"})

    transport = httpx.MockTransport(unauthenticated)
    with Client("http://edge", "", transport=transport) as client, pytest.raises(ApiError):
        client.job("job_1")
    assert "authorization" not in asked[0].headers


def test_where_no_address_is_known_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("MODELYARD_URL")
    monkeypatch.chdir(tmp_path)
    assert ends(monkeypatch, ConnectionFailed("http://127.0.0.1:8080: refused")) == 4
    assert "no MODELYARD_URL, and none in .modelyard/cli.env" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "folder"), [("elsewhere", "elsewhere"), ("", ".modelyard"), (None, ".modelyard")]
)
def test_the_local_stack_is_found_where_its_state_is(
    state: str | None, folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MODELYARD_URL")
    monkeypatch.delenv("MODELYARD_API_KEY", raising=False)
    if state is not None:
        monkeypatch.setenv("MODELYARD_STATE", state)
    monkeypatch.chdir(tmp_path)
    for each in (".modelyard", "elsewhere"):
        (tmp_path / each).mkdir()
        lines = f"MODELYARD_URL=http://{each}\nMODELYARD_API_KEY=myk_{each}\n"
        (tmp_path / each / "cli.env").write_text(lines)

    settings = CliSettings.of_environment()

    assert settings.url == f"http://{folder}"
    assert settings.api_key.get_secret_value() == f"myk_{folder}"


def test_the_environment_goes_before_the_local_stacks_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODELYARD_STATE", str(tmp_path))
    (tmp_path / "cli.env").write_text("MODELYARD_URL=http://local\n")
    assert CliSettings.of_environment().url == "http://edge"


def test_a_collector_that_is_away_is_no_words_on_the_screen() -> None:
    script = "from modelyard.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "--version"],
        env={**os.environ, "MODELYARD_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("alive", "down_since", "lost_at", "said"),
    [
        (True, None, None, "ready"),
        (True, "2026-01-01T00:00:00Z", None, "runtime down for "),
        (False, "2026-01-01T00:00:00Z", None, "silent for "),
        (False, None, "2026-01-01T00:00:00Z", "lost for "),
    ],
)
def test_status_tells_what_ails_a_node(
    *,
    alive: bool,
    down_since: str | None,
    lost_at: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    node = {
        "id": "node-1",
        "alive": alive,
        "heartbeat_at": "2026-01-01T00:00:00Z",
        "runtime": "docker",
        "runtime_down_since": down_since,
        "lost_at": lost_at,
        "capacity": {"cpu_millicores": 4000, "memory_bytes": 1 << 30},
        "used": {"cpu_millicores": 500, "memory_bytes": 1 << 29},
    }
    answers = {
        "/readyz": {"ready": True, "checks": {"database": "ok"}, "breakers": {"scheduler": "open"}},
        "/v1/nodes": {"nodes": [node], "node_count": 1},
    }
    answering(monkeypatch, lambda path: httpx.Response(200, json=answers[path]))

    assert exit_code_of(monkeypatch, "status") == 0
    shown = capsys.readouterr().out
    assert "api_gateway  scheduler  open: calls are refused" in shown.splitlines()
    [line] = [line for line in shown.splitlines() if line.startswith("node-1")]
    assert said in line
    assert "0.5/4" in line


@pytest.mark.parametrize(
    ("answer", "code", "detail"),
    [
        (
            httpx.Response(403, json={"code": "PERMISSION_DENIED", "detail": "scope missing"}),
            "PERMISSION_DENIED",
            "scope missing",
        ),
        (
            httpx.Response(
                503, json={"code": "UNAVAILABLE", "detail": "scheduler does not answer"}
            ),
            "UNAVAILABLE",
            "scheduler does not answer",
        ),
        (httpx.ConnectError("refused"), "UNREACHABLE", "http://edge"),
    ],
    ids=["may not", "scheduler away", "gateway gone meanwhile"],
)
def test_status_is_told_as_far_as_it_is_known_and_says_what_is_not(
    answer: httpx.Response | httpx.ConnectError,
    code: str,
    detail: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answered(path: str) -> httpx.Response:
        if path == "/readyz":
            return httpx.Response(503, json={"ready": False, "checks": {"database": "away"}})
        if isinstance(answer, httpx.ConnectError):
            raise answer
        return answer

    answering(monkeypatch, answered)

    assert exit_code_of(monkeypatch, "status") == 4
    shown = capsys.readouterr().out
    assert "away" in shown
    assert f"nodes unknown ({code}): {detail}" in shown

    assert exit_code_of(monkeypatch, "--json", "status") == 4
    told = json.loads(capsys.readouterr().out)
    assert (told["ready"], told["nodes"]) == (False, None)
    assert told["errors"]["nodes"]["code"] == code
    assert detail in told["errors"]["nodes"]["detail"]


@pytest.mark.parametrize(
    ("code", "status_code", "is_ready", "ends_with"),
    [
        ("UNAUTHENTICATED", 401, True, 3),
        ("UNAUTHENTICATED", 401, False, 4),
        ("PERMISSION_DENIED", 403, True, 0),
    ],
    ids=["wrong key", "wrong key, and not ready", "may not see nodes"],
)
def test_status_with_a_wrong_key_is_refused(
    *,
    code: str,
    status_code: int,
    is_ready: bool,
    ends_with: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers = {
        "/readyz": httpx.Response(200 if is_ready else 503, json={"ready": is_ready}),
        "/v1/nodes": httpx.Response(status_code, json={"code": code, "detail": "no"}),
    }
    answering(monkeypatch, lambda path: answers[path])

    assert exit_code_of(monkeypatch, "status") == ends_with
    assert f"nodes unknown ({code}): no" in capsys.readouterr().out


def test_status_for_programs_has_no_errors_where_all_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {"/readyz": {"ready": True}, "/v1/nodes": {"nodes": [], "node_count": 0}}
    answering(monkeypatch, lambda path: httpx.Response(200, json=answers[path]))

    assert exit_code_of(monkeypatch, "--json", "status") == 0
    assert json.loads(capsys.readouterr().out) == {
        "ready": True,
        "nodes": [],
        "services": {},
        "errors": {},
    }


NEIGHBOURS = "model_registry=http://registry,scheduler=http://scheduler,log_collector=http://logs"


def answering_as_services(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    """Let one service be ready, one not, and one be away; return what they are asked."""
    asked: list[httpx.Request] = []

    def answered(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        match request.url.host, request.url.path:
            case "edge", "/readyz":
                told = {"ready": True, "breakers": {"scheduler": "closed", "redis": "half-open"}}
                return httpx.Response(200, json=told)
            case "edge", _:
                return httpx.Response(200, json={"nodes": [], "node_count": 0})
            case "registry", _:
                return httpx.Response(200, json={"ready": True, "breakers": {"database": "closed"}})
            case "scheduler", _:
                told = {
                    "ready": False,
                    "checks": {"database": "ok", "kafka": "kafka is not available"},
                    "advisories": {"container-runtime": "ok"},
                    "breakers": {"model-registry": "open"},
                }
                return httpx.Response(503, json=told)
        raise httpx.ConnectError("refused")

    transport = httpx.MockTransport(answered)
    monkeypatch.setattr("modelyard.cli.main.Client", partial(Client, transport=transport))
    monkeypatch.setenv("MODELYARD_OPERATIONS", NEIGHBOURS)
    monkeypatch.setenv("MODELYARD_API_KEY", "myk_secret")
    return asked


def test_status_tells_each_services_breakers_and_failed_checks_where_ports_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = answering_as_services(monkeypatch)

    assert exit_code_of(monkeypatch, "status") == 4
    shown = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    start = shown.index(["SERVICE", "CHECK", "ANSWER"])
    assert shown[start + 1 : start + 3] == [["scheduler", "kafka", "kafka is not available"], []]
    start = shown.index(["SERVICE", "EDGE", "BREAKER"])
    assert shown[start + 1 : start + 6] == [
        ["api_gateway", "redis", "half-open: one call is tried"],
        ["api_gateway", "scheduler", "closed"],
        ["model_registry", "database", "closed"],
        ["scheduler", "model-registry", "open: calls are refused"],
        ["log_collector", "unknown", "(UNREACHABLE): http://logs: refused"],
    ]
    told_the_key = {request.url.host for request in asked if "authorization" in request.headers}
    assert told_the_key == {"edge"}


def test_status_for_programs_has_what_each_service_says_and_who_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering_as_services(monkeypatch)

    assert exit_code_of(monkeypatch, "--json", "status") == 4
    told = json.loads(capsys.readouterr().out)
    services = told["services"]
    assert services["model_registry"] == {"ready": True, "breakers": {"database": "closed"}}
    assert services["scheduler"]["checks"]["kafka"] == "kafka is not available"
    assert services["log_collector"] is None
    assert told["errors"]["log_collector"]["code"] == "UNREACHABLE"


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(200, text="<html>"), httpx.Response(404, json={}), httpx.Response(200, json=1)],
    ids=["no JSON", "no readiness", "no object"],
)
def test_status_says_that_what_answers_is_no_service(
    answer: httpx.Response, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {"edge": httpx.Response(200, json={"ready": True, "nodes": []}), "other": answer}
    transport = httpx.MockTransport(lambda request: answers[request.url.host])
    monkeypatch.setattr("modelyard.cli.main.Client", partial(Client, transport=transport))
    monkeypatch.setenv("MODELYARD_OPERATIONS", "scheduler=http://other")

    assert exit_code_of(monkeypatch, "status") == 4
    assert "scheduler unknown (UNREADABLE)" in capsys.readouterr().out


@pytest.mark.parametrize("operations", ["scheduler", "=http://x", "scheduler=ftp://x"])
def test_operations_ports_that_are_named_wrongly_are_wrong_usage(
    operations: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELYARD_OPERATIONS", operations)

    assert exit_code_of(monkeypatch, "status") == 2
    assert "MODELYARD_OPERATIONS" in capsys.readouterr().err


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], httpx.Response]) -> None:
    """Let the gateway answer by path."""
    transport = httpx.MockTransport(lambda request: answer(request.url.path))
    at_once = partial(Client, transport=transport, sleep=lambda _: None)
    monkeypatch.setattr("modelyard.cli.main.Client", at_once)


def test_one_of_anything_is_shown_by_the_same_word() -> None:
    verbs = {
        noun: group.commands.keys()
        for noun, group in cli.cli.commands.items()
        if isinstance(group, click.Group)
    }

    nouns_shown = {noun for noun, own in verbs.items() if "show" in own}
    assert nouns_shown == {"deploy", "job", "model", "tenant", "trace"}
    assert not any("get" in own for own in verbs.values())
