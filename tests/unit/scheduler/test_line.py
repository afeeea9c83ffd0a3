"""Who stands in line, and whose turn it is."""

import gc
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.scheduling.line import (
    Head,
    Line,
    LineChange,
    Shape,
    Totals,
    Waiting,
)
from tests.unit.scheduler.builders import ACME, NOW, UMBRELLA, resources

MINUTE = timedelta(minutes=1)


def head(
    seq: int,
    *,
    tenant: TenantId = ACME,
    priority: int = 0,
    cpu: int = 1,
    kind: OwnerKind = OwnerKind.JOB,
    count: int = 1,
) -> Head:
    run_max = timedelta(hours=1) if kind is OwnerKind.JOB else None
    shape = Shape(kind, tenant, priority, resources(cpu=cpu), run_max)
    return Head(f"head-{seq}", seq, shape, count=count)


def in_turn(line: Line, *, share: float = 0.0) -> list[int]:
    return [each.queue_seq for each in line.turns(lambda _: share)]


def test_replicas_come_first_then_larger_priorities_then_who_came_first() -> None:
    line = Line.of(
        [
            head(1),
            head(2, tenant=UMBRELLA, priority=5),
            head(3, priority=5, cpu=2),
            head(4, kind=OwnerKind.REPLICA, tenant=UMBRELLA),
            head(5, kind=OwnerKind.REPLICA),
        ]
    )
    assert in_turn(line) == [4, 5, 2, 3, 1]


def test_of_one_priority_the_tenant_with_the_smaller_share_comes_first() -> None:
    line = Line.of([head(1), head(2), head(3, tenant=UMBRELLA), head(4, priority=1)])
    shares = {ACME: 0.5, UMBRELLA: 0.1}
    assert [each.queue_seq for each in line.turns(shares.__getitem__)] == [4, 3, 1, 2]


def test_a_share_that_grows_gives_the_next_turn_to_another() -> None:
    line = Line.of([head(1), head(2), head(3, tenant=UMBRELLA), head(4, tenant=UMBRELLA)])
    shares = {ACME: 0.0, UMBRELLA: 0.0}
    told = []
    for each in line.turns(shares.__getitem__):
        told.append(each.queue_seq)
        shares[each.tenant] += 1.0
    assert told == [1, 3, 2, 4]


def test_who_is_refused_takes_all_that_are_alike_with_it() -> None:
    line = Line.of([head(1), head(2, cpu=2), head(3), head(4, cpu=2), head(5, tenant=UMBRELLA)])
    turns = line.turns(lambda _: 0.0)
    told = []
    for each in turns:
        told.append(each.queue_seq)
        if each.queue_seq == 1:
            turns.refuse()
    assert told == [1, 2, 4, 5]


def test_who_pauses_has_no_turn_until_that_is_over_and_counts_all_the_same() -> None:
    line = Line.of([head(2)])
    line.put(Waiting(head(1), not_before=NOW + MINUTE))
    line.end_pauses(at=NOW)
    assert (in_turn(line), line.totals) == ([2], Totals(2, 3))
    assert line.tenants() == {ACME}
    line.end_pauses(at=NOW + MINUTE)
    assert (in_turn(line), line.totals) == ([1, 2], Totals(2, 3))


def test_a_longer_pause_is_not_cut_short_by_an_earlier_one() -> None:
    line = Line()
    for minutes in (1, 3):
        line.put(Waiting(head(1), not_before=NOW + minutes * MINUTE))
    line.end_pauses(at=NOW + 2 * MINUTE)
    assert in_turn(line) == []
    line.end_pauses(at=NOW + 3 * MINUTE)
    assert in_turn(line) == [1]


def test_another_line_without_some_leaves_the_first_as_it_was() -> None:
    line = Line.of([head(1), head(2), head(3)])
    other = line.without(["head-1", "head-9"])
    assert (in_turn(other), in_turn(line)) == ([2, 3], [1, 2, 3])
    other.put(Waiting(head(4)))
    assert (other.totals, line.totals) == (Totals(3, 9), Totals(3, 6))


def test_elements_of_an_array_have_their_turns_one_by_one_in_order() -> None:
    line = Line.of([head(1), head(2, count=3), head(3), head(4, tenant=UMBRELLA)])
    given = {ACME: 0.0, UMBRELLA: 0.15}
    turns = []
    for each in line.turns(given.__getitem__):
        turns.append((each.queue_seq, each.array_index, each.count))
        given[each.tenant] += 0.1
    assert turns == [(1, 0, 1), (2, 0, 3), (4, 0, 1), (2, 1, 2), (2, 2, 1), (3, 0, 1)]
    assert line.count(OwnerKind.JOB) == line.totals.count == 6
    assert line.length == 4


def test_an_element_that_comes_back_is_before_the_rest_of_its_array() -> None:
    rest = replace(head(2, count=3), array_index=7)
    back = replace(head(2), id="head-0", array_index=4)
    line = Line.of([rest, back])
    turns = line.turns(lambda _: 0.0)
    assert [each.array_index for each in turns] == [4, 7, 8, 9]


def test_a_refusal_of_an_element_is_one_of_all_that_are_alike() -> None:
    line = Line.of([head(1, count=3), head(2), head(3, cpu=2)])
    turns = line.turns(lambda _: 0.0)
    next(turns)
    turns.refuse()
    assert [each.queue_seq for each in turns] == [3]


def test_another_line_lacks_as_many_elements_as_were_placed() -> None:
    line = Line.of([head(1, count=3), head(2)])
    less = line.without(["head-1", "head-2", "head-1"])
    assert less.find("head-1") == replace(head(1), array_index=2)
    assert less.totals == Totals(1, 1)
    assert less.without(["head-1"]).totals == Totals()
    assert line.find("head-1") == head(1, count=3)
    assert line.totals == Totals(4, 3)


@pytest.mark.parametrize("kind", OwnerKind)
def test_who_left_is_found_no_more(kind: OwnerKind) -> None:
    line = Line.of([head(1, kind=kind)])
    assert (line.find("head-1"), line.count(kind)) == (head(1, kind=kind), 1)
    line.remove("head-1")
    assert (line.find("head-1"), line.count(kind), line.tenants()) == (None, 0, set())


@st.composite
def told(draw: st.DrawFn) -> list[LineChange]:
    """Draw what is told of a few, again and again, each time as it is by then."""
    changes = []
    for seq in draw(st.lists(st.integers(1, 6), max_size=20)):
        waiting = None
        if draw(st.booleans()):
            tenant = draw(st.sampled_from([ACME, UMBRELLA]))
            pause = draw(st.none() | st.just(NOW + MINUTE))
            each = head(
                seq,
                tenant=tenant,
                priority=draw(st.integers(0, 1)),
                count=draw(st.integers(1, 3)),
            )
            waiting = Waiting(each, not_before=pause)
        changes.append(LineChange(f"head-{seq}", waiting))
    return changes


@given(told(), st.booleans())
def test_a_line_is_what_was_told_last_of_each_however_often(
    changes: Sequence[LineChange], again: bool
) -> None:
    line = Line()
    for change in [*changes, *(changes if again else ())]:
        line.change(change)
    newest = {change.head_id: change.waiting for change in changes}
    waiting = [each for each in newest.values() if each is not None]
    assert line.totals == Totals(
        sum(each.head.count for each in waiting), sum(each.head.queue_seq for each in waiting)
    )
    assert line.tenants() == {each.head.tenant for each in waiting}
    line.end_pauses(at=NOW + MINUTE)
    ranked = sorted(
        (each.head.shape.rank, each.head.queue_seq)
        for each in waiting
        for _ in range(each.head.count)
    )
    assert in_turn(line) == [seq for _, seq in ranked]


def test_full_collections_of_garbage_walk_nothing_of_most_of_a_line() -> None:
    gc.collect()
    before = len(gc.get_objects())
    line = Line.of(head(seq) for seq in range(1_000))
    gc.collect()
    assert len(gc.get_objects()) - before < line.length / 2
