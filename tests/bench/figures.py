"""What a bench prints: a table for people, and as its last line one JSON object for machines.

Owns: percentiles and the form of both. Leaves to each bench what its figures count.
"""

import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that so many percent of all do not exceed (nearest rank)."""
    assert values, "a percentile is one of the values"
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def median(values: Sequence[float]) -> float:
    """Return the value in the middle, or the mean of the two there."""
    return statistics.median(values)


def print_table(title: str, rows: Sequence[tuple[str, Sequence[float]]], *, unit: str) -> None:
    """Print each row's spread."""
    width = max(len(name) for name, _ in rows)
    lines = [f"\n{title}", f"  {'':{width}}  {'p50':>8} {'p90':>8} {'p99':>8} {'max':>8}  {unit}"]
    for name, values in rows:
        shown = [median(values), percentile(values, 90), percentile(values, 99), max(values)]
        lines.append(f"  {name:{width}}  " + " ".join(f"{value:8.1f}" for value in shown))
    say("\n".join(lines))


def print_figures(bench: str, figures: Mapping[str, float]) -> None:
    """Print the last line."""
    rounded = {f"{bench}.{name}": round(value, 2) for name, value in figures.items()}
    say(json.dumps({"bench": bench, "figures": rounded}))


def say(text: str) -> None:
    """Print at once, whoever reads."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
