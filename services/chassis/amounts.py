"""Amounts in words for people: `128 MiB`, `2 min`.

Owns: the units, and that what is told is the amount itself: one that is no short number of any unit
is told in bytes, since rounded it could read like the bound that it passed.
"""

from datetime import timedelta
from typing import Final

_SIZES: Final = (
    (1 << 50, "PiB"),
    (1 << 40, "TiB"),
    (1 << 30, "GiB"),
    (1 << 20, "MiB"),
    (1 << 10, "KiB"),
)
_LENGTHS: Final = ((86_400, "day"), (3_600, "h"), (60, "min"))
_PLACES: Final = 3
_COUNT_MAX: Final = 10_000


def size_in_words(size_bytes: int) -> str:
    """Return `128 MiB`, `1.5 GiB` or `1,000,001 bytes`."""
    for unit_bytes, unit in _SIZES:
        count = size_bytes / unit_bytes
        if 1 <= count < _COUNT_MAX and round(count, _PLACES) == count:
            return f"{_plain(count, _PLACES)} {unit}"
    return "1 byte" if size_bytes == 1 else f"{size_bytes:,} bytes"


def duration_in_words(length: timedelta) -> str:
    """Return `30 days`, `1 h 30 min` or `0.5 s`."""
    if length < timedelta(0):
        return f"-{duration_in_words(-length)}"
    left = length.total_seconds()
    parts = []
    for unit_s, unit in _LENGTHS:
        count, left = divmod(left, unit_s)
        if count:
            parts.append(f"{count:.0f} {unit}{'s' if unit == 'day' and count > 1 else ''}")
    if left or not parts:
        parts.append(f"{_plain(left, 6)} s")
    return " ".join(parts)


def _plain(count: float, places: int) -> str:
    """Return a number without an exponent or zeros at its end."""
    return f"{count:.{places}f}".rstrip("0").rstrip(".")
