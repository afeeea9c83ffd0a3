"""By when heads start, told before anything has ended."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.forecast import WORK_MAX, Forecast, forecast
from services.scheduler.domain.scheduling.line import Head, Line, Shape
from services.scheduler.domain.scheduling.plan import Holding, Snapshot, plan
from services.scheduler.domain.scheduling.shares import Shares
from tests.unit.scheduler.builders import ACME, UMBRELLA, a_node, resources

HOUR = timedelta(hours=1)


def job(seq: int, *, cpu: int, hours: float = 1, tenant: TenantId = ACME) -> Head:
    shape = Shape(OwnerKind.JOB, tenant, 0, resources(cpu=cpu), run_max=hours * HOUR)
    return Head(f"job-{seq}", seq, shape)


def holding(cpu: int, *, hours: float | None, tenant: TenantId = ACME) -> Holding:
    ends_in = None if hours is None else hours * HOUR
    return Holding(NodeId("a"), tenant, resources(cpu=cpu), ends_in)


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


def test_nobody_can_tell_of_who_waits_for_a_replica() -> None:
    first = job(1, cpu=8)
    around = seen([first], holding(1, hours=None))
    assert forecast(first, around, plan(around)) == Forecast(None)


def test_nobody_reckons_further_than_it_is_worth() -> None:
    line = [job(seq, cpu=8) for seq in range(500)]
    around = seen(line, *[Holding(NodeId("a"), ACME, Resources(), timedelta(0))] * 499)
    steps = WORK_MAX // 1500
    told = [forecast(line[place], around, plan(around)) for place in (steps, steps + 1)]
    assert told == [Forecast(steps * HOUR), Forecast(None, is_cut=True)]


def test_the_first_in_line_is_told_its_instant_however_large_the_yard_is() -> None:
    first = job(1, cpu=8)
    around = seen(
        [first],
        *[Holding(NodeId("a"), ACME, Resources(), 2 * HOUR)] * 2 * WORK_MAX,
        holding(1, hours=1),
    )
    assert starts_in(first, around) == HOUR
