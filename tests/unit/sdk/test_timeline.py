"""What `job timeline` tells, from what the platform keeps."""

import json
from datetime import UTC, datetime, timedelta
from functools import partial

import httpx
import pytest
from modelyard.cli.timeline import clock_of, events_of
from modelyard.client import AttemptEnding, Client, Job, JobAttempt

from tests.unit.sdk.command_line import exit_code_of

QUEUED_AT = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return QUEUED_AT + timedelta(seconds=seconds)


def a_job(state: str, reason: str, *, ended_at: datetime | None = None) -> Job:
    return Job.model_validate(
        {
            "id": "job_1",
            "spec": {"name": "n", "image": "i", "command": ["true"]},
            "state": state,
            "reason": reason,
            "version": 1,
            "attempt_number": 1,
            "attempt_id": "",
            "node_id": "",
            "progress": None,
            "failure": None,
            "created_at": QUEUED_AT,
            "started_at": None,
            "ended_at": ended_at,
            "trace_id": "",
        }
    )


def an_attempt(
    number: int,
    state: str,
    *,
    created: float,
    started: float | None = None,
    ended: float | None = None,
    exit_code: int | None = None,
    ending: AttemptEnding | None = None,
) -> JobAttempt:
    return JobAttempt(
        id=f"att_{number}",
        number=number,
        state=state,
        node_id="machine-7",
        created_at=at(created),
        started_at=None if started is None else at(started),
        ended_at=None if ended is None else at(ended),
        exit_code=exit_code,
        ending=ending,
    )


FAILED = a_job("FAILED", "exit code 1", ended_at=at(70))
ATTEMPTS = [
    an_attempt(1, "CLOSED", created=1, ended=2),
    an_attempt(2, "LOST", created=8, started=9, ended=30),
    an_attempt(3, "EXITED", created=40, started=41, ended=65, exit_code=1),
]


def test_a_job_that_has_ended_is_told_from_its_first_place_in_line_to_its_end() -> None:
    events = events_of(FAILED, ATTEMPTS, now=at(1_000))

    assert [(event.elapsed_s, event.event, event.text) for event in events] == [
        (0, "queued", "queued"),
        (1, "admitted", "attempt 1 admitted on machine-7"),
        (2, "ended", "attempt 1 ended before it ran"),
        (8, "admitted", "attempt 2 admitted on machine-7"),
        (9, "started", "attempt 2 started"),
        (30, "ended", "attempt 2 lost: nobody knows how it ended"),
        (40, "admitted", "attempt 3 admitted on machine-7"),
        (41, "started", "attempt 3 started"),
        (65, "ended", "attempt 3 ended with exit code 1"),
        (70, "failed", "FAILED: exit code 1"),
    ]
    assert [event.exit_code for event in events if event.event == "ended"] == [None, None, 1]


@pytest.mark.parametrize(
    ("state", "exit_code", "reason", "message", "told"),
    [
        ("EXITED", 0, "succeeded", "exit code 0", "ended with exit code 0 (succeeded)"),
        ("EXITED", 75, "exit_code", "exit code 75", "ended with exit code 75 (exit_code)"),
        (
            "EXITED",
            143,
            "drained",
            "n is drained",
            "ended with exit code 143 (drained: n is drained)",
        ),
        ("CLOSED", None, "cancelled", "not needed", "ended before it ran (cancelled: not needed)"),
    ],
)
def test_the_end_of_an_attempt_says_why(
    state: str, exit_code: int | None, reason: str, message: str, told: str
) -> None:
    ending = AttemptEnding(reason=reason, message=message)
    tried = an_attempt(1, state, created=1, ended=3, exit_code=exit_code, ending=ending)

    _, admitted, ended, _ = events_of(FAILED, [tried], now=at(5))

    assert (ended.text, ended.ending, admitted.ending) == (f"attempt 1 {told}", ending, None)


def test_what_several_tasks_did_is_told_by_its_instants_and_says_whose_it_was() -> None:
    several = FAILED.model_copy(update={"spec": FAILED.spec.model_copy(update={"tasks": 2})})

    def of_task(task: int, attempt: JobAttempt) -> JobAttempt:
        return attempt.model_copy(update={"task": task})

    tasks = [
        of_task(0, an_attempt(1, "EXITED", created=1, started=3, ended=9, exit_code=0)),
        of_task(1, an_attempt(1, "EXITED", created=1, started=2, ended=4, exit_code=1)),
        # By the clock of their node, which is late.
        of_task(0, an_attempt(2, "EXITED", created=8, started=7, ended=20, exit_code=0)),
        of_task(1, an_attempt(2, "CLOSED", created=8, ended=10)),
    ]

    _, *events, _ = events_of(several, tasks, now=at(5))

    assert [(event.elapsed_s, event.task, event.text) for event in events] == [
        (1, 0, "attempt 1 task 0 admitted on machine-7"),
        (1, 1, "attempt 1 task 1 admitted on machine-7"),
        (2, 1, "attempt 1 task 1 started"),
        (3, 0, "attempt 1 task 0 started"),
        (4, 1, "attempt 1 task 1 ended with exit code 1"),
        (9, 0, "attempt 1 task 0 ended with exit code 0"),
        (8, 0, "attempt 2 task 0 admitted on machine-7"),
        (7, 0, "attempt 2 task 0 started"),
        (8, 1, "attempt 2 task 1 admitted on machine-7"),
        (10, 1, "attempt 2 task 1 ended before it ran"),
        (20, 0, "attempt 2 task 0 ended with exit code 0"),
    ]


def test_a_job_that_waits_for_its_retry_says_why_at_the_end() -> None:
    waiting = a_job("QUEUED", "retry 1 of 3 in 6 s: exit code 75")
    tried = an_attempt(1, "EXITED", created=1, started=2, ended=3, exit_code=75)

    *_, last = events_of(waiting, [tried], now=at(5))

    assert (last.event, last.at, last.text) == ("now", at(5), f"QUEUED: {waiting.reason}")


@pytest.mark.parametrize(
    ("elapsed_s", "shown"),
    [
        (0, "0:00:00.0"),
        (65.26, "0:01:05.3"),
        (59.96, "0:01:00.0"),
        (90_000, "25:00:00.0"),
        (-0.2, "-0:00:00.2"),
    ],
)
def test_elapsed_time_is_shown_in_hours_minutes_and_seconds(elapsed_s: float, shown: str) -> None:
    assert clock_of(elapsed_s) == shown


def test_the_command_tells_an_event_a_line_and_all_of_it_to_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/jobs/job_1":
            return httpx.Response(200, text=FAILED.model_dump_json())
        assert request.url.path == "/v1/jobs/job_1/attempts"
        attempts = [attempt.model_dump(mode="json") for attempt in ATTEMPTS]
        return httpx.Response(200, json={"attempts": attempts, "next_page_token": ""})

    transport = httpx.MockTransport(answer)
    monkeypatch.setenv("MODELYARD_URL", "http://edge")
    monkeypatch.setattr("modelyard.cli.main.Client", partial(Client, transport=transport))

    assert exit_code_of(monkeypatch, "job", "timeline", "job_1") == 0
    header, first, *_, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["TIME", "ELAPSED", "EVENT"]
    assert first == "2026-01-01T00:00:00Z  0:00:00.0  queued"
    assert last == "2026-01-01T00:01:10Z  0:01:10.0  FAILED: exit code 1"

    assert exit_code_of(monkeypatch, "--json", "job", "timeline", "job_1") == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["event"] for each in told][-2:] == ["ended", "failed"]
    assert told[-2]["attempt_number"] == 3
    assert told[-2]["exit_code"] == 1
