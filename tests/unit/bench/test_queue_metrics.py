"""What a page of metrics says, and percentiles from a histogram's bounds."""

import math

import pytest

from tests.bench.queue_metrics import Scrape, percentile_of, read_lag, read_scrape

PAGE = """
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 1.5e+08
# TYPE modelyard_scheduler_cycle_duration_seconds histogram
modelyard_scheduler_cycle_duration_seconds_bucket{le="0.1"} 3.0
modelyard_scheduler_cycle_duration_seconds_bucket{le="0.5"} 7.0
modelyard_scheduler_cycle_duration_seconds_bucket{le="+Inf"} 8.0
modelyard_scheduler_cycle_duration_seconds_count 8.0
modelyard_scheduler_cycle_duration_seconds_sum 2.5
"""


def test_memory_and_cycles_are_read() -> None:
    found = read_scrape(PAGE)

    assert found == Scrape(150_000_000.0, {0.1: 3.0, 0.5: 7.0, math.inf: 8.0})
    assert found.cycle_count == 8.0


def test_lag_is_that_of_all_partitions() -> None:
    page = (
        "# TYPE modelyard_events_lag_records gauge\n"
        'modelyard_events_lag_records{group="g",topic="t",partition="0"} 3.0\n'
        'modelyard_events_lag_records{group="g",topic="t",partition="1"} 4.0\n'
    )

    assert read_lag(page) == 7
    assert read_lag(PAGE) == 0, "nothing was read"


def test_cycles_between_two_scrapes_are_counted() -> None:
    earlier = Scrape(0.0, {0.1: 3.0, math.inf: 3.0})
    later = Scrape(0.0, {0.1: 4.0, math.inf: 6.0})

    assert later.since(earlier) == {0.1: 1.0, math.inf: 3.0}


@pytest.mark.parametrize(("percent", "expected"), [(12.5, 0.05), (25, 0.1), (50, 0.2), (100, 0.4)])
def test_a_percentile_lies_between_two_bounds(percent: float, expected: float) -> None:
    cycles = {0.1: 4.0, 0.4: 16.0, math.inf: 16.0}

    assert percentile_of(cycles, percent) == pytest.approx(expected)


def test_a_percentile_beyond_all_bounds_is_the_last_one() -> None:
    assert percentile_of({0.1: 1.0, 0.5: 1.0, math.inf: 4.0}, 99) == 0.5
