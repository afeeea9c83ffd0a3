"""The crash matrix as a run prints and keeps it: steps by services, and what came of it.

The file is what `MODELYARD_CRASH_TABLE` names.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.e2e.crash.steps import SERVICES

PROPERTY: Final = "crash"
"""Under which the test's report bears its matrix."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """What a run did to a platform, and what that did to the jobs."""

    seed: int
    """Of the choice of steps: `MODELYARD_CRASH_SEED`."""
    rounds: Mapping[str, int]
    """How often each scenario was done to its end."""
    given_up: Mapping[str, int]
    """How often one was begun anew, and why."""
    seconds: float
    kills: Sequence[str]
    """The step of each kill."""
    wanted: Sequence[str]
    """The steps at which services were to die."""
    step_count: int
    """All that the code has."""
    not_reached: Sequence[str]
    """Steps that no service came to, dead or alive."""
    accepted: int
    lost: int
    doubled: int
    stuck: int
    recovery_p50_s: float
    recovery_p99_s: float

    @property
    def unreached(self) -> list[str]:
        """Return the steps at which nobody died."""
        return sorted(set(self.wanted) - set(self.kills))


def told(matrix: Matrix) -> str:
    """Return a matrix as its test notes it."""
    return json.dumps(asdict(matrix))


def heard(text: str) -> Matrix:
    """Return the matrix that a test has noted."""
    return Matrix(**json.loads(text))


def rendered(matrix: Matrix) -> list[str]:
    """Return the matrix's lines: a step a line, a service a column, kills in each cell."""
    counts = Counter(matrix.kills)
    wanted = set(matrix.wanted)
    names = sorted({step.split(".", 1)[1] for step in wanted})
    width = max(len(name) for name in names)
    lines = ["  ".join(["step".ljust(width), *SERVICES])]
    for name in names:
        cells = [
            str(counts[step]) if (step := f"{service}.{name}") in wanted else ""
            for service in SERVICES
        ]
        columns = [cell.rjust(len(service)) for cell, service in zip(cells, SERVICES, strict=True)]
        lines.append("  ".join([name.ljust(width), *columns]).rstrip())
    return [
        *lines,
        f"{counts.total()} kills at {len(counts)} of {len(wanted)} steps wanted, of"
        f" {matrix.step_count} that there are, in {matrix.seconds:.0f} s",
        f"accepted {matrix.accepted}, lost {matrix.lost}, doubled {matrix.doubled},"
        f" stuck {matrix.stuck}; recovery p50 {matrix.recovery_p50_s:.1f} s,"
        f" p99 {matrix.recovery_p99_s:.1f} s; MODELYARD_CRASH_SEED={matrix.seed}",
        f"not reached: {', '.join(matrix.not_reached) or 'none'}",
        f"done: {_counted(matrix.rounds)}",
        f"begun anew: {_counted(matrix.given_up)}",
    ]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nothing"


def write(matrix: Matrix, file: Path) -> None:
    """Keep the matrix as JSON."""
    file.write_text(json.dumps(asdict(matrix), indent=2) + "\n")
