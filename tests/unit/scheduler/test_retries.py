"""After which failures a job is tried again, and how soon."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.jobs.failure import (
    MESSAGE_CHARACTERS_MAX,
    FailureReason,
    JobFailure,
)
from services.scheduler.domain.jobs.job import Job, JobState, Phase, StopCause
from services.scheduler.domain.jobs.retries import (
    ALWAYS_RETRIED,
    BACKOFF_MAX,
    RETRIED_IF_ASKED,
    RETRIES_MAX,
    JobRetries,
    backoff,
    retry_reasons,
)
from services.scheduler.domain.jobs.spec import JobTimeouts
from tests.unit.scheduler.builders import NODE, NOW, a_job, a_spec, later

LOST = JobFailure(FailureReason.LOST, "gone")
RUNNING = {
    "state": JobState.RUNNING,
    "attempt_number": 1,
    "node_id": NODE,
    "admitted_at": NOW,
    "started_at": NOW,
}


def a_running_job(retries: JobRetries, **timeouts: timedelta) -> Job:
    return a_job(spec=a_spec(retries=retries, timeouts=JobTimeouts(**timeouts)), **RUNNING)


@pytest.mark.parametrize("reason", FailureReason)
def test_only_failures_of_the_platform_are_retried_unless_asked(reason: FailureReason) -> None:
    job = a_running_job(JobRetries())
    assert job.retries(JobFailure(reason, "", exit_code=1)) == (reason in ALWAYS_RETRIED)


@pytest.mark.parametrize("reason", sorted(RETRIED_IF_ASKED))
def test_a_reason_that_is_asked_for_is_retried(reason: FailureReason) -> None:
    job = a_running_job(JobRetries(reasons=(reason,)))
    assert job.retries(JobFailure(reason, ""))


def test_only_the_exit_codes_that_are_asked_for_are_retried() -> None:
    job = a_running_job(JobRetries(exit_codes=(75, 111)))
    retried = [
        code
        for code in range(256)
        if job.retries(JobFailure(FailureReason.EXIT_CODE, "", exit_code=code))
    ]
    assert retried == [75, 111]


@pytest.mark.parametrize("reason", [FailureReason.START, FailureReason.QUEUE_TIMEOUT])
def test_what_can_not_run_is_not_retried_even_if_asked(reason: FailureReason) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        retry_reasons(["killed", reason], field="spec.retries.reasons")
    assert refusal.value.detail["field"] == "spec.retries.reasons[1]"


def test_retries_are_counted_down() -> None:
    job = a_running_job(JobRetries(count_max=2))
    for count in (1, 2):
        assert job.retries(LOST)
        queued, fact = job.retried(LOST, at=later(60), chance=0.0)
        assert (queued.state, queued.retry_count, fact.state) == (JobState.QUEUED, count, "QUEUED")
        job = queued.move(JobState.ADMITTED, reason="", at=later(90))[0]
    assert not job.retries(LOST)


def test_a_retry_waits_and_says_why() -> None:
    job, fact = a_running_job(JobRetries()).retried(LOST, at=later(60), chance=0.5)

    assert job.retry_at == later(60 + 6.25)
    assert job.reason == fact.reason == "retry 1 of 3 in 6 s: gone"
    assert (job.node_id, job.admitted_at, job.started_at, job.progress) == (None,) * 4
    assert fact.ended_phase is not None
    assert fact.ended_phase.phase is Phase.RUNNING


def test_the_reason_of_a_retry_fits_whatever_the_program_said() -> None:
    said = JobFailure(FailureReason.LOST, "\0" * 10_000)
    job, _ = a_running_job(JobRetries()).retried(said, at=NOW, chance=0.0)
    assert len(job.reason) == MESSAGE_CHARACTERS_MAX
    assert "\0" not in job.reason


@given(count=st.integers(1, RETRIES_MAX), chance=st.floats(0, 1))
def test_pauses_grow_from_five_seconds_on_and_stay_bounded(count: int, chance: float) -> None:
    pause = backoff(count, chance=chance)
    assert timedelta(seconds=5) <= pause <= BACKOFF_MAX * 1.5
    assert pause <= backoff(count + 1, chance=chance)
    assert backoff(count, chance=0.0) <= pause


def test_time_in_line_is_counted_from_the_end_of_the_pause() -> None:
    job = a_running_job(JobRetries(), queue=timedelta(minutes=1))
    retried, _ = job.retried(LOST, at=later(60), chance=0.0)
    assert retried.queue_expires_at == later(60 + 5 + 60)


def test_a_job_that_ran_too_long_and_would_come_back_can_be_cancelled_for_good() -> None:
    job = a_running_job(JobRetries(reasons=(FailureReason.RUN_TIMEOUT,)))
    stopping = job.asked_to_stop(reason="late", at=NOW, cause=StopCause.RUN_TIMEOUT)
    assert stopping is not None

    cancelled = stopping[0].asked_to_stop(reason="asked", at=NOW)

    assert cancelled is not None
    assert cancelled[0].stop is not None
    assert cancelled[0].stop.cause is StopCause.CANCELLED


def test_a_job_that_waited_too_long_has_failed() -> None:
    job = a_job(spec=a_spec(timeouts=JobTimeouts(queue=timedelta(minutes=1))))
    expired, fact = job.expired(at=later(60))

    assert expired.state is fact.state is JobState.FAILED
    assert expired.failure == JobFailure(
        FailureReason.QUEUE_TIMEOUT, "stood in line for longer than 1 min"
    )
