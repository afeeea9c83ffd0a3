"""Stats: which windows there are, and when they are not whole."""

from datetime import timedelta

import pytest

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.jobs.stats import (
    STATS_JOBS_MAX,
    WINDOW_DEFAULT,
    WINDOW_MAX,
    WINDOW_MIN,
    JobEnds,
    JobStats,
    JobTimes,
    JobWaits,
    check_window,
)
from tests.unit.scheduler.builders import NOW, later


@pytest.mark.parametrize("window", [WINDOW_MIN, WINDOW_DEFAULT, WINDOW_MAX])
def test_a_window_within_its_bounds_is_taken(window: timedelta) -> None:
    check_window(window)


@pytest.mark.parametrize(
    "window",
    [timedelta(0), -WINDOW_MIN, WINDOW_MIN - timedelta.resolution, WINDOW_MAX + WINDOW_MIN],
)
def test_a_window_out_of_its_bounds_is_refused_by_name(window: timedelta) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_window(window)
    assert refused.value.detail["field"] == "window"


@pytest.mark.parametrize(
    ("waited_count", "ended_count", "is_whole"),
    [
        (0, 0, True),
        (STATS_JOBS_MAX - 1, STATS_JOBS_MAX - 1, True),
        (STATS_JOBS_MAX, 0, False),
        (0, STATS_JOBS_MAX, False),
    ],
)
def test_stats_of_as_many_jobs_as_are_looked_at_may_lack_some(
    waited_count: int, ended_count: int, *, is_whole: bool
) -> None:
    waits = [
        JobWaits("default", 90, JobTimes(waited_count // 2)),
        JobWaits("default", 50, JobTimes(-(-waited_count // 2))),
    ]
    ends = [JobEnds(JobState.FAILED, ended_count, JobTimes(0))]
    assert JobStats(NOW, later(1), waits, ends).is_whole is is_whole
