"""By when what runs is over, going by how long the latest of its template took.

Owns: what becomes of a run that takes longer than that. What is alike is for `jobs.spec`, and what
an estimate makes of it for `forecast`: nothing is admitted by it (ADR-0042).
"""

from typing import Final

RUNS_MAX: Final = 2
"""The latest so many tell how long the next one takes: older ones only make that worse.

Source: Tsafrir, Etsion and Feitelson, "Backfilling Using System-Generated Predictions Rather than
User Runtime Estimates", IEEE TPDS 18(6), 2007."""
_LEAST_S: Final = 1.0


def expected_in_s(run_expected_s: float, *, placed_for_s: float) -> float:
    """Return after how many seconds what was placed so long ago is expected to be over.

    Who takes longer than expected is expected to take twice as long, and twice that, and so on: the
    longer it runs the longer it will. In seconds, since that is asked of thousands at once.
    """
    expected_s = max(run_expected_s, _LEAST_S)
    while expected_s <= placed_for_s:
        expected_s *= 2
    return expected_s - placed_for_s
