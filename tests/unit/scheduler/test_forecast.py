"""By when heads start, told before anything has ended."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.forecast import (
    WORK_MAX,
    Basis,
    Forecast,
    forecast,
    is_beyond,
    steps_max,
)
from services.scheduler.domain.scheduling.line import Head, Line, Shape
from services.scheduler.domain.scheduling.plan import Holding, Snapshot, plan
from services.scheduler.domain.scheduling.shares import Shares
from tests.unit.scheduler.builders import ACME, UMBRELLA, a_node, resources

HOUR = timedelta(hours=1)


def job(seq: int, *, cpu: int, hours: float = 1, tenant: TenantId = ACME) -> Head:
    shape = Shape(OwnerKind.JOB, tenant, 0, resources(cpu=cpu), run_max=hours * HOUR)
    return Head(f"job-{seq}", seq, shape)


def holding(
    cpu: int, *, hours: float | None, expected: float | None = None, tenant: TenantId = ACME
) -> Holding:
    ends_in = None if hours is None else hours * HOUR
    expected_in = None if expected is None else expected * HOUR
    return Holding(NodeId("a"), tenant, resources(cpu=cpu), ends_in, expected_in)


def starts_in(head: Head, around: Snapshot) -> timedelta | None:
    return forecast(head, around, plan(around)).starts_in


def seen(
    line: Sequence[Head],
    *holdings: Holding,
    allows_mixed_tenants: bool = True,
    left: dict[TenantId, Resources] | None = None,
) -> Snapshot:
    """Return a node of eight cores with what is on it, and who waits."""
    node: Node = a_node(
        "a",
        capacity=resources(cpu=8, memory=64),
        used=sum((each.resources for each in holdings), Resources()),
        allows_mixed_tenants=allows_mixed_tenants,
        holds=frozenset() if allows_mixed_tenants else frozenset(each.work for each in holdings),
    )
    return Snapshot(Line.of(line), [node], Shares(), left or {}, heads_max=1_000, holdings=holdings)


def test_who_has_room_starts_at_once() -> None:
    assert starts_in(job(1, cpu=8), seen([job(1, cpu=8)])) == timedelta(0)


def test_who_has_none_starts_when_enough_has_ended() -> None:
    first = job(1, cpu=4)
    assert starts_in(first, seen([first], holding(3, hours=2), holding(3, hours=1))) == HOUR


def test_each_in_line_starts_when_those_before_it_are_over() -> None:
    line = [job(1, cpu=8, hours=2), job(2, cpu=8, hours=3), job(3, cpu=8)]
    around = seen(line, holding(1, hours=1))
    assert [starts_in(each, around) for each in line] == [HOUR, 3 * HOUR, 6 * HOUR]


def test_an_array_is_told_of_its_next_element_and_who_is_behind_it_of_all() -> None:
    array, behind = replace(job(1, cpu=8), count=3), job(2, cpu=8, hours=2)
    around = seen([array, behind], holding(1, hours=1))
    assert [starts_in(each, around) for each in (array, behind)] == [HOUR, 4 * HOUR]


def test_who_ends_before_the_first_ones_turn_passes_it() -> None:
    line = [job(1, cpu=8), job(2, cpu=1, hours=2), job(3, cpu=1, hours=0.5)]
    around = seen(line, holding(1, hours=1))
    assert starts_in(line[2], around) == timedelta(0)
    assert starts_in(line[1], around) == 2 * HOUR  # after the first one


def test_who_waits_for_another_tenants_jobs_starts_when_the_last_is_over() -> None:
    first = job(1, cpu=1, tenant=UMBRELLA)
    holdings = (holding(1, hours=1), holding(1, hours=3))
    assert starts_in(first, seen([first], *holdings, allows_mixed_tenants=False)) == 3 * HOUR


def test_who_waits_for_its_own_tenants_plan_starts_when_that_has_ended() -> None:
    line = [job(1, cpu=2), job(2, cpu=2)]
    around = seen(line, left={ACME: resources(cpu=2, memory=8)})
    assert [starts_in(each, around) for each in line] == [timedelta(0), HOUR]


def test_no_time_passes_between_cycles_that_follow_each_other_at_once() -> None:
    line = [job(seq, cpu=2) for seq in range(5)]
    around = replace(seen(line), heads_max=2)
    assert [starts_in(each, around) for each in line] == [timedelta(0)] * 4 + [HOUR]


def told_of(head: Head, around: Snapshot) -> tuple[timedelta | None, Basis | None]:
    found = forecast(head, around, plan(around))
    return found.starts_in, found.basis


def test_who_waits_for_what_history_tells_of_starts_when_that_is_expected_to_end() -> None:
    line = [job(1, cpu=8), job(2, cpu=8)]
    around = seen(line, holding(1, hours=24, expected=2))
    assert told_of(line[0], around) == (2 * HOUR, Basis.HISTORY)
    assert told_of(line[1], around) == (3 * HOUR, Basis.HISTORY)  # the first one by its limit


def test_history_moves_no_end_beyond_a_limit() -> None:
    first = job(1, cpu=8)
    around = seen([first], holding(1, hours=1, expected=2))
    assert told_of(first, around) == (HOUR, Basis.LIMITS)


def test_history_of_what_is_not_waited_for_is_no_basis() -> None:
    first = job(1, cpu=4)
    around = seen([first], holding(3, hours=1), holding(3, hours=24, expected=2))
    assert told_of(first, around) == (HOUR, Basis.LIMITS)


def test_history_of_another_node_is_no_basis() -> None:
    first = job(1, cpu=8)
    elsewhere = holding(1, hours=24, expected=1)._replace(node_id=NodeId("small"))
    small = a_node("small", capacity=resources(cpu=2, memory=64), used=elsewhere.resources)
    around = seen([first], holding(1, hours=2))
    around = replace(around, nodes=[*around.nodes, small], holdings=[elsewhere, *_held(around)])
    assert told_of(first, around) == (2 * HOUR, Basis.LIMITS)


def _held(around: Snapshot) -> Sequence[Holding]:
    assert around.holdings is not None
    return around.holdings


def test_who_has_room_now_waits_for_no_history() -> None:
    first = job(1, cpu=4)
    around = seen([first], holding(1, hours=24, expected=2))
    assert told_of(first, around) == (timedelta(0), Basis.LIMITS)


def test_no_basis_is_told_where_nobody_can_tell() -> None:
    first = job(1, cpu=8)
    around = seen([first], holding(1, hours=None), holding(1, hours=24, expected=2))
    assert told_of(first, around) == (None, None)


def test_a_cycle_lets_past_by_limits_whatever_history_tells() -> None:
    line = [job(1, cpu=8), job(2, cpu=1, hours=12)]
    around = seen(line, holding(1, hours=24, expected=1))
    decisions = plan(around)
    assert [each.head.id for each in decisions.placements] == ["job-2"]
    assert decisions.reservation is not None
    assert decisions.reservation.starts_in == 24 * HOUR
    # And the first waits for who was let past.
    assert told_of(line[0], around) == (12 * HOUR, Basis.HISTORY)


def test_what_is_placed_by_cycles_that_follow_at_once_is_by_limits() -> None:
    first = job(1, cpu=8)
    line = [first, *(job(seq, cpu=1, hours=0.25) for seq in range(2, 6))]
    around = seen(line, holding(4, hours=4, expected=1))
    told = [told_of(each, replace(around, heads_max=most)) for most in (1, 5) for each in line]
    assert told[:5] == told[5:] == [(HOUR, Basis.HISTORY), *[(timedelta(0), Basis.LIMITS)] * 4]


def test_who_is_first_once_a_tenant_has_got_more_starts_at_once() -> None:
    third = TenantId("third")
    large = job(1, cpu=8, hours=5)
    other, small = job(2, cpu=2, hours=5, tenant=third), job(3, cpu=2, hours=2)
    running = holding(3, hours=3, tenant=UMBRELLA)
    around = seen([large, other, small], running)
    around = replace(around, shares=Shares(resources(cpu=8), {UMBRELLA: running.resources}))
    assert [each.head for each in plan(around).placements] == [small]
    assert [starts_in(each, around) for each in (small, other)] == [timedelta(0)] * 2


def test_who_starts_on_another_node_than_the_first_is_told_by_what_ends_there() -> None:
    first, second = job(1, cpu=16), job(2, cpu=8)
    nodes = [
        a_node(name, capacity=resources(cpu=cpu, memory=64), used=resources(cpu=cpu))
        for name, cpu in (("a", 16), ("b", 8))
    ]
    holdings = [
        holding(16, hours=1),
        holding(8, hours=24, expected=0.5)._replace(node_id=NodeId("b")),
    ]
    around = replace(seen([first, second]), nodes=nodes, holdings=holdings)
    assert told_of(first, around) == (HOUR, Basis.LIMITS)
    assert told_of(second, around) == (HOUR, Basis.HISTORY)


def test_the_first_of_a_large_yard_is_told_by_limits_where_more_is_placed_at_once() -> None:
    line = [job(1, cpu=8), job(2, cpu=1, hours=0.5), job(3, cpu=1, hours=0.5)]
    many = [Holding(NodeId("a"), ACME, Resources(), HOUR)] * WORK_MAX
    around = replace(seen(line, *many, holding(1, hours=24, expected=2)), heads_max=1)
    assert told_of(line[0], around) == (24 * HOUR, Basis.LIMITS)


def test_no_history_counts_where_not_all_that_runs_was_looked_at() -> None:
    first = job(1, cpu=8)
    around = seen([first], holding(1, hours=1), holding(1, hours=2, expected=0.5))
    around = replace(around, ends_known_to=2 * HOUR)
    assert told_of(first, around) == (2 * HOUR, Basis.LIMITS)


def test_the_first_of_a_large_yard_is_told_by_history_and_who_is_behind_it_nothing() -> None:
    line = [job(1, cpu=8), job(2, cpu=8)]
    many = [Holding(NodeId("a"), ACME, Resources(), HOUR)] * WORK_MAX
    around = seen(line, *many, holding(1, hours=24, expected=2))
    assert told_of(line[0], around) == (2 * HOUR, Basis.HISTORY)
    assert forecast(line[1], around, plan(around)) == Forecast(None, is_cut=True)


def test_nobody_can_tell_of_who_waits_for_a_replica() -> None:
    first = job(1, cpu=8)
    around = seen([first], holding(1, hours=None))
    assert forecast(first, around, plan(around)) == Forecast(None)


def test_nobody_can_tell_where_of_those_that_end_first_none_ends() -> None:
    line = [job(1, cpu=8), job(2, cpu=8)]
    around = replace(seen(line, holding(1, hours=None)), ends_known_to=timedelta(0))
    told = [forecast(each, around, plan(around)) for each in line]
    assert told == [Forecast(None)] * 2


def test_nobody_reckons_further_than_it_is_worth() -> None:
    line = [job(seq, cpu=8) for seq in range(500)]
    around = seen(line, *[Holding(NodeId("a"), ACME, Resources(), timedelta(0))] * 499)
    steps = WORK_MAX // 1500
    told = [forecast(line[place], around, plan(around)) for place in (steps, steps + 1)]
    assert told == [Forecast(steps * HOUR), Forecast(None, is_cut=True)]


def test_nobody_beyond_is_told_an_instant() -> None:
    node_count = 500
    nodes = [a_node(f"n-{place}", capacity=resources(cpu=8)) for place in range(node_count)]
    for alike_count in (0, 20, 21, 60):
        line = [job(seq, cpu=8) for seq in range(alike_count + 1)]
        around = replace(seen(line, *[holding(1, hours=1)]), nodes=nodes, holdings=())
        around = replace(around, heads_max=200)
        if is_beyond(alike_count, node_count=node_count):
            assert steps_max(around) == 1
    assert not is_beyond(20, node_count=node_count)
    assert is_beyond(21, node_count=node_count)


def test_the_first_in_line_is_told_its_instant_however_large_the_yard_is() -> None:
    first = job(1, cpu=8)
    around = seen(
        [first],
        *[Holding(NodeId("a"), ACME, Resources(), 2 * HOUR)] * 2 * WORK_MAX,
        holding(1, hours=1),
    )
    assert starts_in(first, around) == HOUR
