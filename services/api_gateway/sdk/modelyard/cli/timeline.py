"""What became of a job, event by event, from what the platform keeps of it and its attempts.

An attempt's end says why, and so why another one followed; a platform of before has not kept that.
Where the job waits for its next one, its reason says until when. An array has no attempts: its end
says how many of its elements have ended how. Always holds: events are in the
order of the job's life, those of tasks that began together by their instants; the clocks that
stamped them may differ by a little.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Final

from modelyard.cli.reasons import standing_of
from modelyard.client import AttemptEnding, Job, JobAttempt
from pydantic import BaseModel, ConfigDict

_ENDS: Final = {"LOST": "lost: nobody knows how it ended", "CLOSED": "ended before it ran"}


class Event(BaseModel):
    """Something that happened; `event` is the same word for everything of its kind."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    elapsed_s: float
    """Since the job was queued."""
    event: str
    attempt_number: int | None
    task: int | None
    node_id: str | None
    exit_code: int | None
    ending: AttemptEnding | None
    text: str


def events_of(job: Job, attempts: Sequence[JobAttempt], *, now: datetime) -> list[Event]:
    """Return what happened, oldest first; of a job that goes on, what it is at, as the last."""
    return [
        _event(job, "queued", job.created_at, "queued"),
        *_of_attempts(job, attempts),
        _event(
            job,
            job.state.lower() if job.ended_at else "now",
            job.ended_at or now,
            f"{job.state}: {standing_of(job)}",
        ),
    ]


def clock_of(elapsed_s: float) -> str:
    """Return a time as hours, minutes and seconds: `0:01:05.3`."""
    tenths = round(abs(elapsed_s) * 10)
    minutes, seconds = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    sign = "-" if elapsed_s < 0 else ""
    return f"{sign}{hours}:{minutes:02}:{seconds // 10:02}.{seconds % 10}"


def _of_attempts(job: Job, attempts: Sequence[JobAttempt]) -> list[Event]:
    """Return what became of attempts: one go after the other, in each what came first.

    No event goes before an earlier one of its own attempt, whatever clock has stamped it.
    """
    told = []
    for attempt in attempts:
        by = attempt.created_at
        for event in _of_attempt(job, attempt):
            by = max(by, event.at)
            told.append(((attempt.number, by), event))
    return [event for _, event in sorted(told, key=itemgetter(0))]


def _of_attempt(job: Job, attempt: JobAttempt) -> Iterator[Event]:
    def event(kind: str, at: datetime, text: str) -> Event:
        of_task = f" task {attempt.task}" if job.spec.tasks > 1 else ""
        return _event(job, kind, at, f"attempt {attempt.number}{of_task} {text}", attempt)

    yield event("admitted", attempt.created_at, f"admitted on {attempt.node_id}")
    if attempt.started_at is not None:
        yield event("started", attempt.started_at, "started")
    if attempt.ended_at is not None:
        yield event("ended", attempt.ended_at, _how_it_ended(attempt))


def _how_it_ended(attempt: JobAttempt) -> str:
    how = _ENDS.get(attempt.state, f"ended with exit code {attempt.exit_code}")
    if attempt.ending is None:
        return how
    reason, message = attempt.ending.reason, attempt.ending.message
    return f"{how} ({reason})" if how.endswith(message) else f"{how} ({reason}: {message})"


def _event(
    job: Job, kind: str, at: datetime, text: str, attempt: JobAttempt | None = None
) -> Event:
    return Event(
        at=at,
        elapsed_s=(at - job.created_at).total_seconds(),
        event=kind,
        attempt_number=attempt.number if attempt else None,
        task=attempt.task if attempt else None,
        node_id=attempt.node_id if attempt else None,
        exit_code=attempt.exit_code if attempt and kind == "ended" else None,
        ending=attempt.ending if attempt and kind == "ended" else None,
        text=text,
    )
