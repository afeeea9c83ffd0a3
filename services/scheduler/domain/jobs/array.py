"""What its elements make of an array: one description that runs many times (ADR-0040).

Owns: how an array's elements are told, and how it ends by their ends. Its elements are jobs like
any other (`job`), which admission has split off; when they are counted is for `use_cases.jobs`.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import ENDED, Job, JobState, JobTransitioned

ElementCounts = Mapping[JobState, int]
"""How many of an array's elements are in each state; states of which there are none are missing."""


def all_counts(array: Job, of_jobs: ElementCounts) -> ElementCounts:
    """Return those of all elements, from those that are jobs: the rest is what the array is.

    Not by its `rest_count`: some may have been split off between a look at it and one at those.
    """
    rest_count = array.spec.array_size - sum(of_jobs.values())
    return +(Counter(of_jobs) + Counter({_state_of_rest(array): rest_count}))


def after_all(
    array: Job, of_jobs: ElementCounts, *, at: datetime
) -> tuple[Job, JobTransitioned] | None:
    """Return an array that ends, since all its elements have; None: it is not that far."""
    has_left_line = array.state in {JobState.RUNNING, JobState.STOPPING}
    if not has_left_line or any(state not in ENDED for state in of_jobs):
        return None
    if array.stop is not None:
        return array.cancelled(reason=array.stop.reason, at=at)
    counts = all_counts(array, of_jobs)
    if (failure := array.failure or _failure_by(counts)) is not None:
        return array.failed(failure, at=at)
    size = array.spec.array_size
    told = "its element has succeeded" if size == 1 else f"all {size} elements have succeeded"
    return array.move(JobState.SUCCEEDED, reason=told, at=at, ended_at=at)


def _state_of_rest(array: Job) -> JobState:
    if array.stop is not None or array.state is JobState.CANCELLED:
        return JobState.CANCELLED
    return JobState.QUEUED if array.state is JobState.QUEUED else JobState.FAILED


def _failure_by(counts: ElementCounts) -> JobFailure | None:
    failed, cancelled = counts.get(JobState.FAILED, 0), counts.get(JobState.CANCELLED, 0)
    if not failed and not cancelled:
        return None
    told = [f"{failed} failed"] * bool(failed) + [f"{cancelled} cancelled"] * bool(cancelled)
    message = f"of {sum(counts.values())} elements {', '.join(told)}"
    return JobFailure(FailureReason.ELEMENTS, message)
