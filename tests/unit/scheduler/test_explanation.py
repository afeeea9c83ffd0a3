"""Why one waits: what is told of it, and how."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.domain.fleet.reach import FleetDoors
from services.scheduler.domain.scheduling import forecast
from services.scheduler.domain.scheduling.causes import Cause, Hold
from services.scheduler.domain.scheduling.explanation import (
    Explanation,
    Reason,
    reason_far_back,
    reason_in_line,
)
from services.scheduler.domain.scheduling.line import Head, Line, Shape
from services.scheduler.domain.scheduling.plan import Snapshot, plan
from services.scheduler.domain.scheduling.shares import Shares
from services.scheduler.use_cases.ports import FirstInLine
from services.scheduler.use_cases.scheduling.reason import InLine, Seen
from tests.unit.scheduler.builders import ACME, NOW, UMBRELLA, a_job, resources
from tests.unit.scheduler.test_plan import Fleet, Left, a_fleet, fleets, head, holding, lefts, lines

OPEN = FleetDoors(node_count=1, open_count=1)


def estimated(at: datetime, starts_in: timedelta | None) -> datetime | None:
    reason = Reason(Cause.NO_ROOM, "no node has room for it", starts_in=starts_in)
    return Explanation(a_job(), reason, at).estimated_start_at


@pytest.mark.parametrize(
    ("past", "minutes"), [(0.0, 60), (1e-6, 61), (59.999999, 61), (60.0, 61), (60.000001, 62)]
)
def test_an_instant_is_told_to_the_next_full_minute(past: float, minutes: int) -> None:
    at = NOW + timedelta(seconds=past)
    assert estimated(at, timedelta(hours=1)) == NOW + timedelta(minutes=minutes)


def test_no_instant_is_told_where_nobody_can_tell() -> None:
    assert estimated(NOW, None) is None


def seen(
    line: Sequence[Head],
    fleet: Fleet,
    *,
    left: Left | None = None,
    heads_max: int = 50,
) -> Snapshot:
    holdings = fleet.holdings
    return Snapshot(Line.of(line), fleet.nodes, Shares(), left or {}, heads_max, holdings=holdings)


def reason_of(head: Head, around: Snapshot, *, is_certain: bool = True) -> Reason:
    return reason_in_line(head, around, plan(around), OPEN, is_certain=is_certain)


def test_of_no_node_that_is_large_enough_nobody_says_what_it_lacks() -> None:
    large = head("large", cpu=9)
    told = reason_of(large, seen([large], a_fleet("a")))
    assert (told.hold, told.because) == (Hold.NODES, "no node is large enough")
    assert told.helped_by.startswith("a node that takes work")


def test_of_nodes_that_have_come_to_hold_anothers_work_nobody_says_what_they_lack() -> None:
    first = head("first", cpu=1)
    others = holding(1, tenant=UMBRELLA, ends_in=None)
    fleet = a_fleet("a", holdings=[others], allows_mixed_tenants=False)
    told = reason_of(first, seen([first], fleet))
    assert (told.hold, told.because) == (
        Hold.NODES,
        "no node that is large enough takes anything new",
    )


def far_back(
    head: Head, around: Snapshot, doors: FleetDoors = OPEN, *, does_any_end: bool = True
) -> Reason:
    return reason_far_back(head, around, doors, alike_count=3, does_any_end=does_any_end)


def test_one_far_back_that_fits_no_node_as_they_are_is_told_what_the_best_one_lacks() -> None:
    fleet = a_fleet("a", holdings=[holding(6)])
    assert far_back(head("last", cpu=4), seen([], fleet)) == Reason(
        Cause.NO_ROOM,
        "no node has room for it: the best one is short of cpu_millicores 2000",
    )


def test_one_far_back_where_nothing_ends_is_told_that() -> None:
    fleet = a_fleet("a", holdings=[holding(6, ends_in=None)])
    told = far_back(head("last", cpu=4), seen([], fleet), does_any_end=False)
    assert told.cause is Cause.NO_ROOM_EVER


def test_a_job_of_several_tasks_is_told_for_how_many_there_is_room() -> None:
    fleet = a_fleet("a", "b", holdings=[holding(5, ends_in=None)])  # room for 3 and 8
    fits, more = head("fits", cpu=1, tasks=10), head("more", cpu=1, tasks=12)
    assert far_back(fits, seen([], fleet)).hold is Hold.ORDER
    told = reason_of(more, seen([more], fleet))
    assert told.cause is Cause.NO_ROOM_EVER_FOR_TASKS
    assert told.because == (
        "there is room for 11 of its 12 tasks, which start together,"
        " and nothing that ends by itself makes more"
    )


def test_one_far_back_that_fits_a_node_waits_for_those_before_it() -> None:
    last, fleet = head("last", cpu=1), a_fleet("a", holdings=[holding(6)])
    assert far_back(last, seen([], fleet)).hold is Hold.ORDER
    holds = [
        far_back(last, seen([], fleet, left={ACME: resources(cpu=cpu, memory=9)})).hold
        for cpu in (3, 4)
    ]
    assert holds == [Hold.PLAN, Hold.ORDER]  # three of its tenant's that are like it, and itself


def test_one_far_back_that_no_node_takes_is_told_so() -> None:
    told = far_back(head("last", cpu=1), seen([], a_fleet("a")), FleetDoors(node_count=0))
    assert (told.hold, told.because) == (Hold.NODES, "there is no node yet")


def test_one_that_was_not_looked_at_is_told_what_those_like_it_are_refused_for() -> None:
    fleet = a_fleet("a", holdings=[holding(6)])
    alike = [head(f"job-{seq}", cpu=4, seq=seq) for seq in range(2)]
    told = reason_of(alike[1], seen(alike[:1], fleet))
    assert (told.hold, told.starts_in) == (Hold.RESOURCES, None)
    assert told.helped_by == "the end of what runs, or more nodes"


def test_one_that_was_not_looked_at_and_fits_no_node_is_told_so() -> None:
    fleet = a_fleet("a", holdings=[holding(6)])
    told = reason_of(head("other", cpu=4), seen([], fleet), is_certain=False)
    assert (told.hold, told.starts_in) == (Hold.RESOURCES, None)


def test_of_alike_ones_the_last_is_refused_and_the_first_is_not_told_of_that() -> None:
    alike = [head(f"job-{seq}", cpu=4, seq=seq) for seq in range(3)]
    around = seen(alike, a_fleet("a"))
    told = [reason_of(each, around, is_certain=False) for each in alike]
    assert [each.because for each in told] == [
        *["those before it in line are looked at first"] * 2,
        "those before it take the room that there is",
    ]


def test_nobody_says_that_it_is_ones_turn_while_others_were_not_looked_at() -> None:
    first = head("first", cpu=1)
    around = seen([first], a_fleet("a"))
    assert reason_of(first, around).hold is Hold.NONE
    told = reason_of(first, around, is_certain=False)
    assert (told.hold, told.starts_in) == (Hold.ORDER, None)
    assert told.because == "those before it in line are looked at first"


@given(line=lines(), fleet=fleets(), left=lefts, heads_max=st.integers(1, 4))
def test_of_each_shape_the_first_ones_tell_what_a_cycle_does(
    line: list[Head], fleet: Fleet, left: Left, heads_max: int
) -> None:
    alike: defaultdict[Shape, list[Head]] = defaultdict(list)
    for each in sorted(line, key=lambda each: each.queue_seq):
        alike[each.shape].append(each)
    first = [each for heads in alike.values() for each in heads[:heads_max]]
    around = seen(first, fleet, left=left, heads_max=heads_max)
    cycle = plan(seen(line, fleet, left=left, heads_max=heads_max))
    placed = {each.head.id for each in cycle.placements}
    for each in line:
        is_turn = reason_of(each, around).hold is Hold.NONE
        assert is_turn == (each.id in placed)


@st.composite
def lines_of_few_shapes(draw: st.DrawFn) -> list[Head]:
    shapes = [each.shape for each in draw(lines())]
    drawn = draw(st.lists(st.sampled_from(shapes), max_size=12)) if shapes else []
    return [Head(f"head-{seq}", seq, shape) for seq, shape in enumerate(drawn)]


@given(lines_of_few_shapes(), fleets(), lefts, st.integers(1, 3))
def test_a_few_of_each_shape_tell_the_same_as_all_of_them_where_they_tell_all(
    line: list[Head], fleet: Fleet, left: Left, each_max: int
) -> None:
    few = [
        each
        for place, each in enumerate(line)
        if [before.shape for before in line[:place]].count(each.shape) < each_max
    ]
    around, around_all = seen(few, fleet, left=left), seen(line, fleet, left=left)
    some = InLine(FirstInLine(few, each_max, is_whole=True), plan(around))
    all_of_them = InLine(FirstInLine(line, 50, is_whole=True), plan(around_all))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(forecast, "WORK_MAX", 1)  # as if there were many nodes
        for each in line:
            if some.tells_all_of(each, around):
                told = Seen(each, 0, OPEN, around, some).reason
                assert told == Seen(each, 0, OPEN, around_all, all_of_them).reason


def test_one_behind_a_few_is_looked_at_itself_where_nothing_ends() -> None:
    alike = [head(f"job-{seq}", cpu=4, seq=seq) for seq in range(2)]
    for ends_in, tells_all in ((None, [True, False]), (timedelta(hours=1), [True, True])):
        around = seen(alike[:1], a_fleet("a", holdings=[holding(6, ends_in=ends_in)]))
        some = InLine(FirstInLine(alike[:1], 1, is_whole=True), plan(around))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(forecast, "WORK_MAX", 1)
            assert [some.tells_all_of(each, around) for each in alike] == tells_all
