"""A job: what its moves record, and what its facts tell."""

import math

import pytest

from services.chassis.errors import FailedPrecondition
from services.scheduler.domain.identities import AttemptId
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import (
    PROGRESS_METRICS_MAX,
    EndedPhase,
    Job,
    JobProgress,
    JobState,
    JobTransitioned,
    OutputManifest,
    Phase,
    StopCause,
    StopRequest,
)
from tests.unit.scheduler.builders import NODE, NOW, TRACEPARENT, a_job, later

ATTEMPT = AttemptId("att_1")


def admitted_job() -> Job:
    return a_job().admitted(ATTEMPT, NODE, at=later(1))[0]


def running_job() -> Job:
    starting, _ = admitted_job().starting(at=later(2))
    return starting.running(at=later(3))[0]


def test_job_tells_its_whole_life_in_gapless_versions() -> None:
    facts: list[JobTransitioned] = []
    job, fact = Job.queued(a_job().id, a_job().tenant, a_job().spec, at=NOW, traceparent=None)
    facts.append(fact)
    job, fact = job.admitted(ATTEMPT, NODE, at=later(1))
    facts.append(fact)
    job, fact = job.starting(at=later(2))
    facts.append(fact)
    job, fact = job.running(at=later(3))
    facts.append(fact)
    job, fact = job.succeeded((), at=later(4))
    facts.append(fact)
    assert [fact.version for fact in facts] == [1, 2, 3, 4, 5]
    assert [fact.state for fact in facts] == [
        JobState.QUEUED,
        JobState.ADMITTED,
        JobState.STARTING,
        JobState.RUNNING,
        JobState.SUCCEEDED,
    ]
    assert [fact.ended_phase for fact in facts] == [
        None,
        EndedPhase(Phase.QUEUED, NOW, later(1)),
        None,
        EndedPhase(Phase.STARTING, later(1), later(3)),
        EndedPhase(Phase.RUNNING, later(3), later(4)),
    ]
    assert job.is_terminal


def test_every_fact_carries_the_submissions_trace() -> None:
    _, fact = a_job().admitted(ATTEMPT, NODE, at=NOW)
    assert fact.traceparent == TRACEPARENT


def test_cancelling_ends_a_queued_job_at_once() -> None:
    asked = a_job().asked_to_stop(reason="user asked", at=later(5))
    assert asked is not None
    job, fact = asked
    assert (job.state, job.reason, job.ended_at) == (JobState.CANCELLED, "user asked", later(5))
    assert fact.ended_phase == EndedPhase(Phase.QUEUED, NOW, later(5))


@pytest.mark.parametrize(
    "job",
    [admitted_job(), admitted_job().starting(at=NOW)[0], running_job()],
    ids=lambda j: j.state,
)
def test_cancelling_a_placed_job_waits_for_its_runtime(job: Job) -> None:
    asked = job.asked_to_stop(reason="user asked", at=later(9))
    assert asked is not None
    stopping, fact = asked
    assert stopping.state is JobState.STOPPING
    assert stopping.stop is not None
    assert stopping.stop.cause is StopCause.CANCELLED
    assert fact.ended_phase is None  # stopping belongs to the phase that it interrupts

    cancelled, fact = stopping.cancelled(reason="user asked", at=later(10))
    assert cancelled.state is JobState.CANCELLED
    assert fact.ended_phase is not None
    assert fact.ended_phase.phase is (Phase.RUNNING if job.started_at else Phase.STARTING)


@pytest.mark.parametrize("cause", [StopCause.DRAINED, StopCause.PREEMPTED, StopCause.SUSPENDED])
def test_a_job_that_stops_for_now_can_be_cancelled_for_good(cause: StopCause) -> None:
    asked = running_job().asked_to_stop(reason="for now", at=NOW, cause=cause)
    assert asked is not None
    stopping, _ = asked
    assert stopping.asked_to_stop(reason="again", at=NOW, cause=StopCause.PREEMPTED) is None
    cancelled = stopping.asked_to_stop(reason="for good", at=NOW)
    assert cancelled is not None
    assert cancelled[0].stop == StopRequest(StopCause.CANCELLED, "for good", NOW)


def test_asking_again_changes_nothing() -> None:
    asked = running_job().asked_to_stop(reason="first", at=NOW)
    assert asked is not None
    assert asked[0].asked_to_stop(reason="second", at=NOW) is None


def test_a_job_that_ended_by_itself_cannot_be_cancelled() -> None:
    ended, _ = running_job().succeeded((), at=NOW)
    with pytest.raises(FailedPrecondition):
        ended.asked_to_stop(reason="too late", at=NOW)


def test_success_carries_outputs_and_the_last_metrics() -> None:
    progress = JobProgress(0.5, "epoch 1", {"loss": 0.1}, NOW)
    outputs = (OutputManifest("model", "digits", ()),)
    _, fact = running_job().progressed(progress).succeeded(outputs, at=NOW)
    assert fact.outputs == outputs
    assert fact.metrics == {"loss": 0.1}


def test_progress_is_no_fact_and_stays_within_bounds() -> None:
    metrics = {f"m{n}": float(n) for n in range(200)} | {"bad": math.nan, "worse": math.inf}
    before = running_job()
    after = before.progressed(JobProgress(7.0, "x\0" * 1_000, metrics, NOW))
    assert after.version == before.version
    assert after.progress is not None
    assert after.progress.fraction == 1.0
    assert "\0" not in after.progress.message
    assert len(after.progress.message) == 512
    assert len(after.progress.metrics) == PROGRESS_METRICS_MAX


@pytest.mark.parametrize("fraction", [math.nan, math.inf, -1.0])
def test_progress_of_a_nonsense_fraction_is_none(fraction: float) -> None:
    after = running_job().progressed(JobProgress(fraction, "", {}, NOW))
    assert after.progress is not None
    assert after.progress.fraction == 0.0


def test_failure_keeps_the_end_of_what_the_job_wrote() -> None:
    noise = "noise\n" * 2_000 + "half a pair \udc80\0 the reason"
    failure = JobFailure(FailureReason.EXIT_CODE, "exit code 3", exit_code=3, last_lines=noise)
    job, fact = running_job().failed(failure, at=NOW)
    assert job.failure == fact.failure
    assert job.failure is not None
    assert job.failure.last_lines.endswith("half a pair ?\ufffd the reason")
    assert len(job.failure.last_lines) == 4_096
