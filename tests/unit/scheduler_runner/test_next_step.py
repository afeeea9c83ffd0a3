"""Every pair of what is recorded and what the runtime shows has one step."""

from datetime import timedelta

import pytest

from services.scheduler.domain.attempts.attempt import AttemptState
from services.scheduler.domain.attempts.next_step import Step, next_step
from services.scheduler.domain.attempts.runtime import ContainerPhase as P
from tests.unit.scheduler_runner.builders import (
    NOW,
    RUN_TIMEOUT,
    STOP,
    a_container,
    a_replica,
    some_work,
)

BEFORE_START = {
    P.ABSENT: Step.PREPARE,
    P.CREATED: Step.START,
    P.RUNNING: Step.RECORD_START,
    P.EXITED: Step.RECORD_START,
    P.LOST: Step.RECORD_START,
    P.TOMBSTONE: Step.CLOSE,
}
BEFORE_START_UNWANTED = BEFORE_START | {P.ABSENT: Step.CLOSE, P.CREATED: Step.CLOSE}
AFTER_START = {
    P.ABSENT: Step.RECORD_LOSS,
    P.CREATED: Step.RECORD_LOSS,
    P.RUNNING: Step.WATCH,
    P.EXITED: Step.FINISH,
    P.LOST: Step.RECORD_LOSS,
    P.TOMBSTONE: Step.RECORD_LOSS,
}
AFTER_START_UNWANTED = AFTER_START | {P.RUNNING: Step.STOP}


@pytest.mark.parametrize("phase", list(P))
def test_step_follows_from_attempt_and_container(phase: P) -> None:
    container = a_container(phase)
    created, started = AttemptState.CREATED, AttemptState.STARTED

    assert next_step(some_work(created), container, now=NOW) is BEFORE_START[phase]
    assert next_step(some_work(started), container, now=NOW) is AFTER_START[phase]
    for unwanted in ({"stop": STOP}, {"is_current": False}):
        before = some_work(created, **unwanted)
        after = some_work(started, **unwanted)
        assert next_step(before, container, now=NOW) is BEFORE_START_UNWANTED[phase]
        assert next_step(after, container, now=NOW) is AFTER_START_UNWANTED[phase]


def test_step_is_time_out_once_the_run_time_is_over() -> None:
    running = a_container(P.RUNNING)
    late = NOW + RUN_TIMEOUT

    assert next_step(some_work(), running, now=late - timedelta(seconds=1)) is Step.WATCH
    assert next_step(some_work(), running, now=late) is Step.TIME_OUT
    assert next_step(some_work(stop=STOP), running, now=late) is Step.STOP
    assert next_step(some_work(), a_container(P.EXITED), now=late) is Step.FINISH
    assert next_step(some_work(owner=a_replica()), running, now=late) is Step.WATCH
