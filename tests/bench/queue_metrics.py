"""What processes' own `/metrics` say: a scheduler's of its memory and cycles, any of its lag."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from services.chassis.events.telemetry import CONSUMER_LAG
from services.scheduler.telemetry import CYCLE_DURATION

_CYCLES: Final = next(iter(CYCLE_DURATION.describe())).name
_LAG: Final = next(iter(CONSUMER_LAG.describe())).name
_MEMORY: Final = "process_resident_memory_bytes"
_WAIT_S_MAX: Final = 10.0


@dataclass(frozen=True, slots=True)
class Scrape:
    """A process at an instant."""

    memory_bytes: float
    cycles: Mapping[float, float]
    """How many cycles took at most so many seconds, since the process's start."""

    @property
    def cycle_count(self) -> float:
        """Return how many there were."""
        return self.cycles[math.inf]

    def since(self, earlier: "Scrape") -> Mapping[float, float]:
        """Return the cycles between two scrapes, in the same way."""
        return {bound: count - earlier.cycles[bound] for bound, count in self.cycles.items()}


def scrape(address: str) -> Scrape:
    """Ask the scheduler whose operations port this is."""
    return read_scrape(_page(address))


def lag_at(address: str) -> float:
    """Return how many records the process with this operations port has yet to read."""
    return read_lag(_page(address))


def read_scrape(text: str) -> Scrape:
    """Return what a scheduler's page of metrics says."""
    samples = _samples(text)
    [memory_bytes] = [each.value for each in samples if each.name == _MEMORY]
    cycles = {
        float(each.labels["le"]): each.value for each in samples if each.name == f"{_CYCLES}_bucket"
    }
    return Scrape(memory_bytes, cycles)


def read_lag(text: str) -> float:
    """Return what a page of metrics says of the lag, of all partitions that were read from."""
    return sum(each.value for each in _samples(text) if each.name == _LAG)


def _page(address: str) -> str:
    with urlopen(f"http://{address}/metrics", timeout=_WAIT_S_MAX) as answer:
        return str(answer.read().decode())


def _samples(text: str) -> list[Sample]:
    return [each for family in text_string_to_metric_families(text) for each in family.samples]


def percentile_of(cycles: Mapping[float, float], percent: float) -> float:
    """Return the length that so many percent of cycles do not exceed, in seconds.

    Between two bounds it is taken to rise evenly, as `histogram_quantile` of Prometheus does: a
    histogram tells no more. Beyond the last finite bound it is that bound.
    """
    rank = cycles[math.inf] * percent / 100
    assert rank > 0, "a percentile is of something"
    below, below_count = 0.0, 0.0
    for bound, count in sorted(cycles.items()):
        if count >= rank:
            if math.isinf(bound):
                return below
            return below + (bound - below) * (rank - below_count) / (count - below_count)
        below, below_count = bound, count
    raise AssertionError("the last bound holds all")
