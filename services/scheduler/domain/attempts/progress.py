"""What a program says about its progress, line by line, in a file that it appends to.

Owns: the lines' form, one JSON object each: `{"fraction": 0..1, "message": str, "metrics": {name:
number}}`, each part optional. Always holds: what can't be understood changes nothing and is
counted.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from services.scheduler.domain.jobs.job import JobProgress

LINE_BYTES_MAX: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class ProgressTail:
    """How far a progress file was read, and what its last good line said."""

    offset: int = 0
    rest: bytes = b""
    """The beginning of a line whose end is still to be written."""
    said: "Said | None" = None
    malformed_count: int = 0

    def fed(self, data: bytes, *, next_offset: int) -> "ProgressTail":
        """Return the tail after more of the file, which may begin later than the last one ended."""
        is_next = next_offset - len(data) == self.offset
        *lines, rest = ((self.rest if is_next else b"") + data).split(b"\n")
        said, malformed_count = self.said, self.malformed_count
        for line in lines:
            heard = _parse(line, before=said)
            said, malformed_count = heard or said, malformed_count + (heard is None)
        if len(rest) > LINE_BYTES_MAX:  # its end will not be understood either, and counts
            rest = b""
        return ProgressTail(next_offset, rest, said, malformed_count)


@dataclass(frozen=True, slots=True)
class Said:
    """The newest word on each part."""

    fraction: float = 0.0
    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    def at(self, at: datetime) -> JobProgress:
        """Return it as the job's progress."""
        return JobProgress(self.fraction, self.message, self.metrics, at)


def _parse(line: bytes, *, before: Said | None) -> Said | None:
    if len(line) > LINE_BYTES_MAX:
        return None
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not _is_well_formed(data):
        return None
    return replace(before or Said(), **{name: data[name] for name in _PARTS & data.keys()})


_PARTS: Final = frozenset({"fraction", "message", "metrics"})


def _is_well_formed(data: Mapping[str, Any]) -> bool:
    fraction, message = data.get("fraction", 0), data.get("message", "")
    metrics = data.get("metrics", {})
    return (
        _is_number(fraction)
        and 0 <= fraction <= 1
        and isinstance(message, str)
        and isinstance(metrics, dict)
        and all(_is_number(value) for value in metrics.values())
    )


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False
