"""The checkers find bugs that were planted, each within fifty seeds."""

import pytest

from tests.simulation.planted import HARMLESS, PLANTED
from tests.simulation.run import simulate


@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_found_within_fifty_seeds(bug: str) -> None:
    found = next(
        (
            outcome.told
            for outcome in (simulate(seed, made=PLANTED[bug]) for seed in range(50))
            if outcome.violation is not None
        ),
        None,
    )
    assert found is not None


@pytest.mark.parametrize("gap", HARMLESS)
def test_an_events_effect_happens_once_by_inbox_or_constraint_alone(gap: str) -> None:
    outcomes = [simulate(seed, made=HARMLESS[gap]) for seed in range(3)]
    assert [outcome.told for outcome in outcomes if outcome.violation is not None] == []
