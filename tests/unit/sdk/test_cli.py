"""How a command ends."""

import errno
import io
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest
from modelyard.cli import main as cli
from modelyard.cli.platform import status
from modelyard.client import ApiError, Client, ConnectionFailed, Job
from typing_extensions import override


@pytest.fixture(autouse=True)
def _at_no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_URL", "http://edge")
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


def exit_code_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Run the command line with these arguments; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["modelyard", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


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


def a_platform(monkeypatch: pytest.MonkeyPatch, *, queued_for: int) -> None:
    """Answer as one whose node is full for so many looks at the job."""
    looks: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/logs"):
            return httpx.Response(
                200,
                headers={"Content-Type": "text/event-stream"},
                text="event: complete\ndata: {}\n\n",
            )
        if request.url.path == "/v1/artifacts":
            return httpx.Response(201, json={"digest": "sha256:0"})
        looks.append(request)
        return httpx.Response(
            200, json=a_job("QUEUED" if len(looks) <= queued_for else "SUCCEEDED")
        )

    transport = httpx.MockTransport(handler)
    at_once = partial(Client, transport=transport, sleep=lambda _: None)
    monkeypatch.setattr("modelyard.cli.main.Client", at_once)


@pytest.mark.parametrize(("queued_for", "is_told"), [(0, False), (5, False), (60, True)])
def test_a_job_that_waits_for_room_is_told_of_once(
    queued_for: int,
    is_told: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    a_platform(monkeypatch, queued_for=queued_for)
    assert exit_code_of(monkeypatch, "run", str(tmp_path), "--", "true") == 0
    assert capsys.readouterr().err.count("starts when a node has room") == is_told


def test_a_user_who_stops_following_hears_that_the_job_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    a_platform(monkeypatch, queued_for=0)
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
    assert "name: Input should be a valid string; command: Field required" in said


def test_what_is_no_trace_id_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELYARD_JAEGER_URL", "http://nowhere")
    assert exit_code_of(monkeypatch, "trace", "show", "nonsense") == 2
    assert "TRACE_ID: must be 32 hexadecimal digits" in capsys.readouterr().err


def test_where_no_address_is_known_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("MODELYARD_URL")
    monkeypatch.chdir(tmp_path)
    assert ends(monkeypatch, ConnectionFailed("http://127.0.0.1:8080: refused")) == 4
    assert "no MODELYARD_URL" in capsys.readouterr().err


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
