"""What the fault table excuses, and nothing else: it would hide a loss."""

from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from modelyard.client import Job, JobSpec
from modelyard.client.values import JobFailure

from tests.e2e.faults.outcome import MARK, Interval, Outcome

LINES: Final = ["nonce 0", "nonce 1", "nonce 2"]
STOPPED: Final = Interval(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
BEFORE, DURING, AFTER = (
    STOPPED.began_at - timedelta(hours=1),
    STOPPED.began_at + timedelta(hours=1),
    STOPPED.over_at + timedelta(hours=1),
)
LOST: Final = JobFailure(reason="lost", message="", exit_code=None, last_lines="")
KILLED: Final = JobFailure(reason="exit_code", message="", exit_code=255, last_lines="")


def outcome(
    *output: str,
    started_at: datetime = BEFORE,
    ended_at: datetime = DURING,
    failure: JobFailure | None = None,
    stopped: Interval | None = STOPPED,
    start_count: int = 1,
) -> Outcome:
    job = Job(
        id="job_1",
        spec=JobSpec(name="under fault", image="modelyard/base", command=["python"]),
        state="FAILED" if failure else "SUCCEEDED",
        reason=failure.reason if failure else "",
        version=5,
        attempt_number=1,
        attempt_id="att_1",
        node_id="local",
        progress=None,
        failure=failure,
        created_at=started_at,
        started_at=started_at,
        ended_at=ended_at,
        trace_id="",
    )
    return Outcome("job_1", job, list(output), LINES, start_count, stopped)


def test_whole_output_is_neither_lost_nor_marked() -> None:
    whole = outcome(*LINES)

    assert whole.is_finished
    assert (whole.is_lost, whole.is_marked, whole.is_harmed) == (False, False, False)


@pytest.mark.parametrize("printed_count", range(len(LINES) + 1))
@pytest.mark.parametrize("failure", [None, LOST])
def test_output_that_says_what_its_stopped_engine_does_not_know_is_marked(
    printed_count: int, failure: JobFailure | None
) -> None:
    marked = outcome(*LINES[:printed_count], MARK, failure=failure)

    assert (marked.is_lost, marked.is_marked, marked.is_harmed) == (False, True, False)


@pytest.mark.parametrize(
    "lost",
    {
        "says nothing": outcome(*LINES[:2]),
        "has lost a line from its middle": outcome(LINES[0], LINES[2], MARK),
        "goes on after the mark": outcome(LINES[0], MARK, LINES[1]),
        "ended before": outcome(MARK, ended_at=BEFORE),
        "started afterwards": outcome(MARK, started_at=AFTER, ended_at=AFTER),
        "had an engine all the time": outcome(MARK, stopped=None),
        "says an exit code that nobody knows": outcome(MARK, failure=KILLED),
        "failed with all its output": outcome(*LINES, failure=KILLED),
        "is lost and does not say so in its output": outcome(*LINES, failure=LOST),
    }.items(),
    ids=lambda case: case[0],
)
def test_anything_else_is_lost(lost: tuple[str, Outcome]) -> None:
    assert (lost[1].is_lost, lost[1].is_marked, lost[1].is_harmed) == (True, False, True)


@pytest.mark.parametrize("start_count", [0, 2])
def test_a_job_that_did_its_work_must_have_been_heard_to_start_once(start_count: int) -> None:
    assert outcome(*LINES, start_count=start_count).is_harmed
