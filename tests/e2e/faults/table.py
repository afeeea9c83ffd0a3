"""The fault table: one row a fault, as the run prints and keeps it.

The file is what `MODELYARD_FAULT_TABLE` names.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

_HEADINGS: Final = (
    "fault",
    "accepted",
    "finished",
    "lost",
    "started twice",
    "stuck",
    "marked",
    "refused",
    "timed out",
    "other refusals",
    "loop gap s",
    "normal after s",
    "noticed after s",
    "breaker open after s",
)


PROPERTY: Final = "fault"
"""Under which a test's report bears its row: a worker's reports reach the process that prints."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a fault did to the jobs that were submitted meanwhile."""

    runtime: str
    fault: str
    outage_s: float
    accepted: int
    finished: int
    lost: int
    started_twice: int
    stuck: int
    marked: int
    """Ended while the engine was stopped, and their output says that its last may be missing."""
    refused: int
    """With a stable code and `Retry-After`, almost all 503 and 429."""
    timed_out: int
    """504: may have had its effect; the same idempotency key finds out."""
    other_refusals: int
    loop_gap_s: float
    """Longest of any service, but for the one that was frozen itself."""
    loop_gap_of: str
    normal_after_s: float | None
    """From the fault's end until a fresh job took as long as before it; None for never."""
    noticed_after_s: float | None
    """From the fault's begin until the container runtime was shown as down; None for others."""
    breaker_open_after_s: float | None
    """From the fault's begin until nothing was asked of the container runtime any more."""

    def cells(self) -> Sequence[str]:
        """Return the row as it is printed."""
        return (
            f"{self.fault} ({self.runtime}, {self.outage_s:g} s)",
            *(str(self.accepted), str(self.finished), str(self.lost), str(self.started_twice)),
            *(
                str(self.stuck),
                str(self.marked),
                str(self.refused),
                str(self.timed_out),
                str(self.other_refusals),
            ),
            f"{self.loop_gap_s:.2f} {self.loop_gap_of}",
            "never" if self.normal_after_s is None else f"{self.normal_after_s:.1f}",
            "" if self.noticed_after_s is None else f"{self.noticed_after_s:.1f}",
            "" if self.breaker_open_after_s is None else f"{self.breaker_open_after_s:.1f}",
        )


def told(row: Row) -> str:
    """Return a row as its test notes it, in whatever process that runs."""
    return json.dumps(asdict(row))


def heard(text: str) -> Row:
    """Return the row that a test has noted."""
    return Row(**json.loads(text))


def rendered(rows: Sequence[Row]) -> list[str]:
    """Return the table's lines."""
    table = [_HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in table
    ]


def write(rows: Sequence[Row], file: Path) -> None:
    """Keep the table as JSON."""
    file.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
