"""How a tenant's jobs have fared in a window of time.

Owns: which windows there are, and how many jobs are looked at for one. Leaves to the store to look,
where the rows are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.jobs.job import JobState

WINDOW_DEFAULT: Final = timedelta(days=1)
WINDOW_MIN: Final = timedelta(seconds=1)
WINDOW_MAX: Final = timedelta(days=30)
STATS_JOBS_MAX: Final = 10_000
"""Looked at for a question, the latest of the window: 100 of so many are beyond their 99th
percentile, so more would say little else, and what a question costs the database is bounded."""


@dataclass(frozen=True, slots=True)
class JobTimes:
    """How long something took jobs; without a job there is no percentile."""

    job_count: int
    p50: timedelta | None = None
    p99: timedelta | None = None


@dataclass(frozen=True, slots=True)
class JobWaits:
    """How long a queue's jobs of a priority stood in line before they were first admitted."""

    queue: str
    priority: int
    waited: JobTimes


@dataclass(frozen=True, slots=True)
class JobEnds:
    """How many jobs have ended in a state, and how long those that ran did so at last."""

    state: JobState
    job_count: int
    ran: JobTimes


@dataclass(frozen=True, slots=True)
class JobStats:
    """What there is to tell of a window."""

    since: datetime
    until: datetime
    waits: Sequence[JobWaits]
    ends: Sequence[JobEnds]

    @property
    def is_whole(self) -> bool:
        """Tell whether all jobs of the window were looked at."""
        waited_count = sum(group.waited.job_count for group in self.waits)
        ended_count = sum(group.job_count for group in self.ends)
        return max(waited_count, ended_count) < STATS_JOBS_MAX


def check_window(window: timedelta) -> None:
    """Raise InvalidArgument for a window that is too short or too long."""
    if not WINDOW_MIN <= window <= WINDOW_MAX:
        raise InvalidArgument("window", "must be between 1 s and 30 days")
