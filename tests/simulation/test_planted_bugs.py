"""The checkers find bugs that were planted, each within so many seeds; most within a few."""

import pytest

from tests.simulation.planted import HARMLESS, PLANTED
from tests.simulation.run import simulate

SEEDS = range(200)
"""What takes a frozen holder that wakes in the right moment is met once in some thirty."""


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_found(bug: str) -> None:
    found = next(
        (
            outcome.told
            for outcome in (simulate(seed, made=PLANTED[bug]) for seed in SEEDS)
            if outcome.violation is not None
        ),
        None,
    )
    assert found is not None


@pytest.mark.parametrize("gap", HARMLESS)
def test_an_events_effect_happens_once_by_inbox_or_constraint_alone(gap: str) -> None:
    outcomes = [simulate(seed, made=HARMLESS[gap]) for seed in range(3)]
    assert [outcome.told for outcome in outcomes if outcome.violation is not None] == []
