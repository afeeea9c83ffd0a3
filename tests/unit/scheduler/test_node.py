"""Capacity and its booking."""

import pytest

from services.scheduler.domain.resources import Resources
from tests.unit.scheduler.builders import a_node, resources


def test_booking_takes_from_what_is_free() -> None:
    node = a_node(capacity=resources(cpu=4, memory=4), used=resources(cpu=1))
    booked = node.booked(resources(cpu=2))
    assert booked.free == resources(cpu=1, memory=2)


def test_booking_more_than_is_free_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="overbooked"):
        a_node(capacity=resources(cpu=1)).booked(resources(cpu=2))


def test_a_node_that_came_back_smaller_has_nothing_free() -> None:
    shrunk = a_node(capacity=resources(cpu=1, memory=8), used=resources(cpu=4, memory=4))
    assert shrunk.free == resources(cpu=0, memory=4)


def test_amounts_are_never_negative() -> None:
    with pytest.raises(AssertionError, match="negative"):
        resources(cpu=1) - resources(cpu=2)


def test_resources_fit_only_when_each_amount_does() -> None:
    assert Resources(1, 1, 0).fits_in(Resources(1, 1, 0))
    assert not Resources(1, 1, 1).fits_in(Resources(9, 9, 0))
