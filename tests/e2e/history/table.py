"""What a run of the history check came to, as it is printed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

PROPERTY: Final = "history"
"""Under which the test's report bears its run."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run."""

    seed: int
    """`MODELYARD_HISTORY_SEED`."""
    calls: Mapping[str, int]
    """How many of which kind, by what came of them."""
    jobs: int
    events: int
    strikes: Mapping[str, int]
    anomalies: Sequence[str]


def told(run: Run) -> str:
    """Return a run as its test notes it."""
    return json.dumps(asdict(run))


def heard(text: str) -> Run:
    """Return the run that a test has noted."""
    return Run(**json.loads(text))


def rendered(run: Run) -> list[str]:
    """Return its lines."""
    kills = sum(count for name, count in run.strikes.items() if name.endswith(" killed"))
    return [
        f"{sum(run.calls.values())} calls: {_counted(run.calls)}",
        f"{run.jobs} jobs, {run.events} events; {kills} kills: {_counted(run.strikes)}",
        f"anomalies {len(run.anomalies)}; MODELYARD_HISTORY_SEED={run.seed}",
        *run.anomalies,
    ]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
