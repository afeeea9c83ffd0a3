"""An attempt: what its moves record."""

from services.scheduler.domain.attempts.attempt import AttemptState, LogLocation
from services.scheduler.domain.attempts.ending import AttemptEnding, EndReason
from services.scheduler.domain.jobs.failure import (
    MESSAGE_CHARACTERS_MAX,
    FailureReason,
    JobFailure,
)
from services.scheduler.domain.jobs.job import StopCause, StopRequest
from tests.unit.scheduler.builders import ENDING, NOW, an_attempt, later


def test_an_attempt_that_ran_knows_where_its_output_is_and_how_it_ended() -> None:
    started, _ = an_attempt().started(LogLocation("modelyard-att_1/container.log"), at=later(1))
    exited, fact = started.exited(137, ENDING, at=later(2))
    assert exited.is_terminal
    assert (exited.exit_code, exited.started_at, exited.ended_at) == (137, later(1), later(2))
    assert fact.attempt.log_location == LogLocation("modelyard-att_1/container.log")


def test_an_end_that_nobody_saw_is_told_as_such() -> None:
    started, _ = an_attempt().started(LogLocation("modelyard-att_1/container.log"), at=later(1))

    ends = [
        started.exited(0, ENDING, at=later(2)),
        started.exited(0, ENDING, at=later(2), is_end_seen=False),
        started.lost(ENDING, at=later(2)),
    ]

    assert [fact.is_end_seen for _, fact in ends] == [True, False, False]


def test_an_attempt_that_never_ran_is_closed_without_a_log() -> None:
    closed, _ = an_attempt().closed(ENDING, at=later(1))
    assert (closed.state, closed.log_location) == (AttemptState.CLOSED, None)


def test_each_end_keeps_why_with_a_message_that_can_be_stored() -> None:
    started, _ = an_attempt().started(LogLocation("x"), at=later(1))
    said = AttemptEnding(EndReason.OUTPUTS, "no\0 file" + "!" * MESSAGE_CHARACTERS_MAX)

    ends = [
        started.exited(0, said, at=later(2))[0],
        started.lost(said, at=later(2))[0],
        an_attempt().closed(said, at=later(2))[0],
    ]

    assert started.ending is None
    assert {end.ending for end in ends} == {said.bounded()}
    assert said.bounded().message == ("no\ufffd file" + "!" * 512)[:512]


def test_an_attempt_ends_for_each_cause_of_a_stop_and_each_failure_but_those_without_one() -> None:
    stopped = {AttemptEnding.stopped(StopRequest(cause, "", NOW)).reason for cause in StopCause}
    reasons = set(FailureReason) - {FailureReason.QUEUE_TIMEOUT, FailureReason.ELEMENTS}
    failed = {AttemptEnding.failed(JobFailure(reason, "")).reason for reason in reasons}

    assert {EndReason.SUCCEEDED} | stopped | failed == set(EndReason)


def test_an_attempt_has_one_container_name() -> None:
    assert an_attempt().container_name == "modelyard-att_1"
