"""Capacity and its booking, closed and lost nodes."""

from dataclasses import replace
from datetime import timedelta

import pytest

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.fleet.loss import Looks, UnheldNode
from services.scheduler.domain.fleet.node import HeldWork
from services.scheduler.domain.fleet.reach import FleetReach
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources
from tests.unit.scheduler.builders import ACME, NOW, UMBRELLA, a_node, later, resources


def test_booking_takes_from_what_is_free() -> None:
    node = a_node(capacity=resources(cpu=4, memory=4), used=resources(cpu=1))
    booked = node.booked(resources(cpu=2), by=HeldWork(ACME, OwnerKind.JOB))
    assert booked.free == resources(cpu=1, memory=2)
    assert booked.holds == frozenset()


def test_booking_more_than_is_free_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="overbooked"):
        a_node(capacity=resources(cpu=1)).booked(resources(cpu=2), by=HeldWork(ACME, OwnerKind.JOB))


@pytest.mark.parametrize("kind", OwnerKind)
def test_a_node_that_mixes_nobody_is_its_tenants_from_the_first_booking_on(kind: OwnerKind) -> None:
    empty = a_node(capacity=resources(cpu=4, memory=4), allows_mixed_tenants=False)
    assert empty.takes(ACME)
    assert empty.takes(UMBRELLA)

    theirs = empty.booked(resources(), by=HeldWork(ACME, kind))
    assert (theirs.takes(ACME), theirs.takes(UMBRELLA)) == (True, False)
    assert theirs.booked(resources(), by=HeldWork(ACME, kind)).holds == theirs.holds
    with pytest.raises(AssertionError, match="another tenant's"):
        theirs.booked(resources(), by=HeldWork(UMBRELLA, kind))


def test_a_node_will_take_others_once_its_jobs_are_over_and_not_beside_a_replica() -> None:
    empty = a_node(capacity=resources(cpu=4, memory=4), allows_mixed_tenants=False)
    running = empty.booked(resources(), by=HeldWork(ACME, OwnerKind.JOB))
    serving = running.booked(resources(), by=HeldWork(ACME, OwnerKind.REPLICA))
    assert (running.will_take(UMBRELLA), serving.will_take(UMBRELLA)) == (True, False)
    assert serving.will_take(ACME)


def test_a_node_takes_nobody_new_while_it_has_two_tenants_work_and_mixes_none_any_more() -> None:
    holds = frozenset({HeldWork(ACME, OwnerKind.JOB), HeldWork(UMBRELLA, OwnerKind.JOB)})
    node = a_node(capacity=resources(cpu=4), allows_mixed_tenants=False, holds=holds)
    assert not node.takes(ACME)
    assert not node.takes(UMBRELLA)
    assert node.will_take(UMBRELLA)


def test_a_node_that_came_back_smaller_has_nothing_free() -> None:
    shrunk = a_node(capacity=resources(cpu=1, memory=8), used=resources(cpu=4, memory=4))
    assert shrunk.free == resources(cpu=0, memory=4)


def test_a_node_whose_runtime_is_away_has_nothing_free() -> None:
    node = replace(a_node(capacity=resources(cpu=4)), runtime_down_since=NOW)
    assert node.free == Resources()


def test_a_cordoned_node_has_nothing_free_until_it_is_open_again() -> None:
    node = a_node(capacity=resources(cpu=4), used=resources(cpu=1))
    cordoned = node.cordoned(at=NOW)
    assert (cordoned.free, cordoned.used) == (Resources(), node.used)
    assert cordoned.cordoned(at=later(9)) == cordoned
    assert cordoned.uncordoned() == node


def test_a_node_that_is_drained_is_cordoned_too() -> None:
    node = a_node(capacity=resources(cpu=4))
    drained = node.cordoned(at=NOW).drained(at=later(1))
    assert (drained.cordoned_at, drained.draining_since) == (NOW, later(1))
    assert drained.drained(at=later(9)) == drained
    assert drained.uncordoned() == node


def test_a_lost_node_has_nothing_free_until_it_is_back() -> None:
    node = a_node(capacity=resources(cpu=4), used=resources(cpu=1))
    lost = node.lost(at=NOW)
    assert (lost.free, lost.used) == (Resources(), node.used)
    assert lost.lost(at=later(9)) == lost
    assert lost.returned() == node


LOOKS = [UnheldNode(NodeId("node-1"), NOW, timedelta(seconds=seconds)) for seconds in range(100)]


def test_a_node_is_lost_when_enough_looks_in_a_row_find_it_unheld_for_long_enough() -> None:
    looks = Looks(lost_after=timedelta(seconds=60), in_a_row_min=3)
    assert [looks.looked([LOOKS[at]]) for at in (40, 59)] == [[], []]
    assert looks.looked([LOOKS[60]]) == [LOOKS[60]]
    assert looks.looked([LOOKS[63]]) == [LOOKS[63]]  # its attempts may not have ended all


def test_a_node_is_not_lost_at_the_first_looks_however_long_it_was_unheld() -> None:
    looks = Looks(lost_after=timedelta(seconds=60), in_a_row_min=3)
    assert [looks.looked([LOOKS[at]]) for at in (90, 93)] == [[], []]
    assert looks.looked([LOOKS[96]]) == [LOOKS[96]]


def test_a_node_that_was_held_between_two_looks_is_looked_at_anew() -> None:
    looks = Looks(lost_after=timedelta(seconds=60), in_a_row_min=2)
    looks.looked([LOOKS[58]])
    assert looks.looked([]) == []
    assert looks.looked([LOOKS[70]]) == []
    renewed = replace(LOOKS[73], since=later(1))
    assert looks.looked([renewed]) == []
    assert looks.looked([renewed]) == [renewed]


def test_amounts_are_never_negative() -> None:
    with pytest.raises(AssertionError, match="negative"):
        resources(cpu=1) - resources(cpu=2)


def test_resources_fit_only_when_each_amount_does() -> None:
    assert Resources(1, 1, 0).fits_in(Resources(1, 1, 0))
    assert not Resources(1, 1, 1).fits_in(Resources(9, 9, 0))


LARGEST = Resources(cpu_millicores=4_000, memory_bytes=8 << 30, gpu_count=0)


@pytest.mark.parametrize(
    ("asked", "field", "most"),
    [
        (replace(LARGEST, cpu_millicores=4_001), "spec.resources.cpu_millicores", "4000"),
        (replace(LARGEST, memory_bytes=9 << 30), "spec.resources.memory_bytes", "8 GiB"),
        (replace(LARGEST, gpu_count=1), "spec.resources.gpu_count", "0"),
    ],
)
def test_an_amount_that_no_node_has_is_named_with_the_most_there_is(
    asked: Resources, field: str, most: str
) -> None:
    with pytest.raises(InvalidArgument, match=f"no node has more than {most}; ") as refused:
        FleetReach(is_enough=False, largest=LARGEST).check(asked, field="spec.resources")
    assert refused.value.detail["field"] == field


def test_amounts_that_no_single_node_has_together_are_told_as_that() -> None:
    with pytest.raises(InvalidArgument, match="4000, memory_bytes 8 GiB") as refused:
        FleetReach(is_enough=False, largest=LARGEST).check(LARGEST, field="spec.resources")
    assert refused.value.detail["field"] == "spec.resources"


def test_what_some_node_could_hold_is_not_refused() -> None:
    FleetReach(is_enough=True, largest=Resources()).check(LARGEST, field="spec.resources")
