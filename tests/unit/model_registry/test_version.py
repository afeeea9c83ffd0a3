"""The states of a version."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import FailedPrecondition, InvalidArgument, PayloadTooLarge
from services.model_registry.domain.version import (
    TRANSITIONS,
    ModelVersion,
    NewVersion,
    VersionState,
    checked_metrics,
)
from tests.unit.model_registry.builders import NOW, a_manifest


def a_version(state: VersionState) -> ModelVersion:
    return ModelVersion("mdl_1", 1, state, "", NewVersion(a_manifest()), NOW)


def test_every_state_has_its_row() -> None:
    assert set(TRANSITIONS) == set(VersionState)


@pytest.mark.parametrize(("state", "to"), list(itertools.product(VersionState, repeat=2)))
def test_version_moves_where_the_table_says_so(state: VersionState, to: VersionState) -> None:
    version = a_version(state)
    if to in TRANSITIONS[state]:
        moved = version.move(to, reason="because")
        assert (moved.state, moved.reason) == (to, "because")
        assert moved.content == version.content
    else:
        with pytest.raises(FailedPrecondition):
            version.move(to)
    assert version.state is state


@given(st.dictionaries(st.text(alphabet="ab/é", min_size=1, max_size=5), st.floats()))
def test_metrics_keep_every_number(metrics: dict[str, float]) -> None:
    kept = checked_metrics(metrics)
    assert kept == {name: value for name, value in metrics.items() if math.isfinite(value)}


@pytest.mark.parametrize("metrics", [{"": 1.0}, {"a\0": 1.0}, {"m" * 251: 1.0}])
def test_metrics_are_refused_when_a_name_is_malformed(metrics: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument):
        checked_metrics(metrics)


def test_metrics_are_refused_when_they_are_too_many_or_too_long() -> None:
    with pytest.raises(InvalidArgument):
        checked_metrics({str(number): 0.0 for number in range(501)})
    with pytest.raises(PayloadTooLarge):
        checked_metrics({f"{number:0>250}": 0.0 for number in range(500)})
