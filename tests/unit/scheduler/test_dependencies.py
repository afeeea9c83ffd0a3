"""What other jobs' ends mean for one that waits for them."""

from datetime import timedelta

import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.domain.jobs.dependencies import after_ends, needs_of
from services.scheduler.domain.jobs.job import ENDED, Job, JobState
from services.scheduler.domain.jobs.spec import DependencyCondition, JobDependency, JobTimeouts
from tests.unit.scheduler.builders import ACME, NODE, NOW, a_spec, later

A, B = JobId("job_a"), JobId("job_b")
SUCCESS, END = JobDependency(A), JobDependency(A, DependencyCondition.END)
B_ENDS = JobDependency(B, DependencyCondition.END)
HOUR = JobTimeouts(queue=timedelta(hours=1))


def a_waiting_job(*needs: JobDependency) -> Job:
    spec = a_spec(after=needs, timeouts=HOUR)
    job, _ = Job.queued(JobId("job_1"), ACME, spec, at=NOW, traceparent=None, needs=needs)
    return job


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("needed", [SUCCESS, END], ids=lambda each: each.condition)
def test_each_state_of_a_needed_job_lets_go_waits_or_cancels(
    needed: JobDependency, state: JobState
) -> None:
    job, fact = after_ends(a_waiting_job(needed), {A: state}, at=later(5))

    is_met = state is JobState.SUCCEEDED or (needed is END and state in ENDED)
    if state in ENDED and not is_met:
        assert (job.state, fact is not None) == (JobState.CANCELLED, True)
    else:
        assert (job.state, fact, job.version) == (JobState.QUEUED, None, 1)
    assert job.needs == (() if state in ENDED else (needed,))


def test_a_job_waits_for_the_rest_and_says_for_what() -> None:
    waiting = a_waiting_job(SUCCESS, B_ENDS)
    assert waiting.reason == "waits for job job_a to succeed, and 1 more"
    assert waiting.queue_expires_at is None

    job, _ = after_ends(waiting, {A: JobState.SUCCEEDED, B: JobState.RUNNING}, at=later(5))
    assert (job.needs, job.reason) == ((B_ENDS,), "waits for job job_b to end")
    assert job.queue_expires_at is None

    job, _ = after_ends(job, {B: JobState.FAILED}, at=later(9))
    assert (job.needs, job.reason) == ((), "job job_b, which it waited for, has failed")


def test_time_in_line_begins_with_the_last_end() -> None:
    job, _ = after_ends(a_waiting_job(SUCCESS), {A: JobState.SUCCEEDED}, at=later(600))
    assert job.queue_expires_at == later(600) + timedelta(hours=1)


@pytest.mark.parametrize(
    ("state", "words"),
    [(JobState.FAILED, "has failed"), (JobState.CANCELLED, "was cancelled"), (None, "is gone")],
)
def test_a_job_is_cancelled_with_what_it_waited_for_in_vain(
    state: JobState | None, words: str
) -> None:
    states = {} if state is None else {A: state}
    job, fact = after_ends(a_waiting_job(B_ENDS, SUCCESS), states | {B: JobState.RUNNING}, at=NOW)
    assert (job.state, job.reason) == (
        JobState.CANCELLED,
        f"job job_a, which it waits for, {words}",
    )
    assert (job.needs, job.ended_at) == ((), NOW)
    assert fact is not None
    assert fact.version == 2


def test_a_needed_job_that_is_gone_has_not_ended_for_anybody() -> None:
    job, _ = after_ends(a_waiting_job(END), {}, at=NOW)
    assert job.state is JobState.CANCELLED


def test_a_waiting_job_that_is_cancelled_waits_for_nobody_any_more() -> None:
    asked = a_waiting_job(SUCCESS).asked_to_stop(reason="user asked", at=NOW)
    assert asked is not None
    assert (asked[0].state, asked[0].needs) == (JobState.CANCELLED, ())


def test_a_waiting_job_is_not_admitted() -> None:
    with pytest.raises(AssertionError, match="passed over"):
        a_waiting_job(SUCCESS).admitted(AttemptId("att_1"), NODE, at=NOW)


def test_a_new_job_waits_for_what_has_not_ended_yet() -> None:
    spec = a_spec(after=(SUCCESS, B_ENDS))
    assert needs_of(spec, {A: JobState.RUNNING, B: JobState.QUEUED}) == (SUCCESS, B_ENDS)
    assert needs_of(spec, {A: JobState.SUCCEEDED, B: JobState.QUEUED}) == (B_ENDS,)
    assert needs_of(spec, {A: JobState.SUCCEEDED, B: JobState.FAILED}) == ()


def test_a_new_job_may_not_wait_for_what_there_is_not() -> None:
    with pytest.raises(InvalidArgument) as refused:
        needs_of(a_spec(after=(B_ENDS, SUCCESS)), {B: JobState.QUEUED})
    assert refused.value.detail["field"] == "spec.after[1].job_id"


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_a_new_job_may_not_wait_for_a_success_that_never_comes(state: JobState) -> None:
    with pytest.raises(FailedPrecondition, match="job_a") as refused:
        needs_of(a_spec(after=(B_ENDS, SUCCESS)), {A: state, B: JobState.QUEUED})
    assert refused.value.detail == {
        "field": "spec.after[1].job_id",
        "kind": "job",
        "id": A,
        "state": state,
    }
