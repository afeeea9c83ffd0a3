"""What to do next for an attempt, from what is recorded and what its runtime shows.

Pure. `use_cases.attempts.drive_attempt` takes the step and asks again, so a runner that died
between an act and its record goes on where it was: nothing is remembered but the two states.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from services.scheduler.domain.attempts.attempt import AttemptState
from services.scheduler.domain.attempts.runtime import ContainerPhase, ContainerStatus
from services.scheduler.domain.attempts.work import AttemptWork, JobWork


class Step(StrEnum):
    """One step closer."""

    PREPARE = "prepare"
    """Fetch its files and create its container."""
    START = "start"
    GIVE_UP_START = "give_up_start"
    """Make sure that it never starts, because its time for that is over."""
    RECORD_START = "record_start"
    WATCH = "watch"
    """Follow its progress, or whether its server answers."""
    TIME_OUT = "time_out"
    """Ask the job to stop, because its run time is over."""
    STOP = "stop"
    FINISH = "finish"
    """It has exited: store what it left, then record the end."""
    RECORD_LOSS = "record_loss"
    """It was started and is gone without an exit code."""
    CLOSE = "close"
    """Make sure that it never starts, then record that."""


_BEFORE_START: Final = {
    ContainerPhase.ABSENT: Step.PREPARE,
    ContainerPhase.CREATED: Step.START,
    ContainerPhase.TOMBSTONE: Step.CLOSE,
}
_AFTER_START: Final = {
    ContainerPhase.RUNNING: Step.WATCH,
    ContainerPhase.EXITED: Step.FINISH,
}


def next_step(work: AttemptWork, container: ContainerStatus, *, now: datetime) -> Step:
    """Return the one step that an open attempt needs next."""
    if work.attempt.state is AttemptState.CREATED:
        step = _BEFORE_START.get(container.phase, Step.RECORD_START)
        if step is Step.RECORD_START or step is Step.CLOSE:
            return step
        if work.should_end:
            return Step.CLOSE
        return Step.GIVE_UP_START if _is_late(work) else step
    assert work.attempt.state is AttemptState.STARTED, "only open attempts are driven"
    step = _AFTER_START.get(container.phase, Step.RECORD_LOSS)
    if step is Step.WATCH and work.should_end:
        return Step.STOP
    if step is Step.WATCH and _is_out_of_time(work, now=now):
        return Step.TIME_OUT
    return step


def start_time_left(work: AttemptWork) -> timedelta | None:
    """Return how long its first instruction may still take to come, if that is bounded."""
    if not isinstance(work.owner, JobWork) or work.owner.spec.timeouts.start is None:
        return None
    return work.owner.spec.timeouts.start - work.placed_for


def _is_late(work: AttemptWork) -> bool:
    time_left = start_time_left(work)
    return time_left is not None and time_left <= timedelta(0)


def _is_out_of_time(work: AttemptWork, *, now: datetime) -> bool:
    started_at = work.attempt.started_at
    return (
        isinstance(work.owner, JobWork)
        and started_at is not None
        and now >= started_at + work.owner.spec.timeouts.run
    )
