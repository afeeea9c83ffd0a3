"""An attempt: what its moves record."""

from services.scheduler.domain.attempts.attempt import AttemptState, LogLocation
from tests.unit.scheduler.builders import an_attempt, later


def test_an_attempt_that_ran_knows_where_its_output_is_and_how_it_ended() -> None:
    started, _ = an_attempt().started(LogLocation("modelyard-att_1/container.log"), at=later(1))
    exited, fact = started.exited(137, at=later(2))
    assert exited.is_terminal
    assert (exited.exit_code, exited.started_at, exited.ended_at) == (137, later(1), later(2))
    assert fact.attempt.log_location == LogLocation("modelyard-att_1/container.log")


def test_an_end_that_nobody_saw_is_told_as_such() -> None:
    started, _ = an_attempt().started(LogLocation("modelyard-att_1/container.log"), at=later(1))

    ends = [
        started.exited(0, at=later(2)),
        started.exited(0, at=later(2), is_end_seen=False),
        started.lost(at=later(2)),
    ]

    assert [fact.is_end_seen for _, fact in ends] == [True, False, False]


def test_an_attempt_that_never_ran_is_closed_without_a_log() -> None:
    closed, _ = an_attempt().closed(at=later(1))
    assert (closed.state, closed.log_location) == (AttemptState.CLOSED, None)


def test_an_attempt_has_one_container_name() -> None:
    assert an_attempt().container_name == "modelyard-att_1"
