"""The replay of a trace: whoever waits is told when, and starts when it does."""

import gzip
from pathlib import Path

from services.scheduler.settings import SchedulingSettings
from tests.bench.queue_replay import GPUS_PER_NODE, HASTE, Arrival, Wait, read_trace, waits_of


def arrives(number: int, *, at_s: float, lasts_s: float, gpu_count: int = GPUS_PER_NODE) -> Arrival:
    return Arrival(number, at_s, gpu_count, lasts_s)


def test_estimates_are_right_when_all_run_to_their_limits() -> None:
    arrivals = [arrives(number, at_s=10.0 * number, lasts_s=100.0) for number in range(4)]

    waits = waits_of(arrivals, node_count=1, limit_ratio=1.0)

    assert waits == [Wait(90.0, 90.0), Wait(180.0, 180.0), Wait(270.0, 270.0)]


def test_estimates_are_late_when_what_runs_ends_early() -> None:
    arrivals = [arrives(number, at_s=0.0, lasts_s=100.0) for number in range(2)]

    [wait] = waits_of(arrivals, node_count=1, limit_ratio=2.0)

    assert (wait.told_s, wait.waited_s, wait.error) == (200.0, 100.0, 1.0)


def test_estimates_go_by_how_long_the_latest_of_as_many_gpus_took() -> None:
    arrivals = [
        arrives(0, at_s=0.0, lasts_s=40.0),
        arrives(1, at_s=100.0, lasts_s=100.0),
        arrives(2, at_s=200.0, lasts_s=100.0),
        arrives(3, at_s=210.0, lasts_s=100.0),
    ]

    [wait] = waits_of(arrivals, node_count=1, limit_ratio=2.0, with_history=True)

    assert (wait.told_s, wait.waited_s) == (60.0, 90.0)  # after 10 of the 70 expected


def test_who_starts_at_once_is_told_nothing() -> None:
    arrivals = [arrives(number, at_s=0.0, lasts_s=100.0, gpu_count=4) for number in range(2)]

    assert waits_of(arrivals, node_count=1, limit_ratio=1.0) == []


def test_a_short_one_passes_who_waits_for_a_whole_node() -> None:
    arrivals = [
        arrives(0, at_s=0.0, lasts_s=100.0, gpu_count=4),
        arrives(1, at_s=1.0, lasts_s=100.0),
        arrives(2, at_s=2.0, lasts_s=50.0, gpu_count=4),
    ]

    assert waits_of(arrivals, node_count=1, limit_ratio=1.0) == [Wait(99.0, 99.0)]


def test_who_is_too_far_back_is_told_nothing_and_starts_at_last() -> None:
    count = SchedulingSettings().cycle_heads_max + 2
    arrivals = [arrives(number, at_s=0.0, lasts_s=1.0) for number in range(count)]

    waits = waits_of(arrivals, node_count=1, limit_ratio=1.0)

    assert [wait.waited_s for wait in waits] == [float(number) for number in range(1, count)]
    assert waits[-1].told_s is None


def test_a_trace_is_read_without_what_no_node_could_hold(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv.gz"
    rows = ["vc,job,arrival_s,num_gpu,duration_s", "103959,0,0,1,10", "103959,1,30,16,10"]
    trace.write_bytes(gzip.compress("\n".join([*rows, "another,0,5,1,10"]).encode()))

    assert read_trace(trace) == {"103959": [Arrival(0, 0 / HASTE, 1, 10.0)]}
