"""Fifty fixed and fifty fresh worlds, in which everything that always holds does."""

import secrets
from typing import Final

import pytest

from tests.simulation.run import STEPS, simulate

SEEDS_PER_TEST: Final = 10
FRESH_SEEDS_MAX: Final = 1 << 32


@pytest.mark.parametrize("first", range(0, 50, SEEDS_PER_TEST))
def test_promises_hold_under_faults_in_fixed_worlds(first: int) -> None:
    _hold(list(range(first, first + SEEDS_PER_TEST)))


@pytest.mark.parametrize("batch", range(5))
def test_promises_hold_under_faults_in_fresh_worlds(batch: int) -> None:
    _hold([secrets.randbelow(FRESH_SEEDS_MAX) for _ in range(SEEDS_PER_TEST)])


def _hold(seeds: list[int]) -> None:
    outcomes = [simulate(seed) for seed in seeds]
    violated = [outcome.told for outcome in outcomes if outcome.violation is not None]
    assert violated == [], f"see it again: make simulate SEED=… STEPS={STEPS}"
    # A world in which nothing ends, or nothing goes wrong, would hold any promise.
    assert all(outcome.ends.get("SUCCEEDED") for outcome in outcomes)
    assert all(outcome.faults for outcome in outcomes)
