"""Whom any choice may stop, for any yard."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.fleet.node import HeldWork, Node
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.line import Head, Shape
from services.scheduler.domain.scheduling.preemption import Running, choose_victims
from tests.unit.scheduler.builders import ACME, NOW, UMBRELLA, a_node, resources

HOUR = timedelta(hours=1)
SOON = timedelta(seconds=10)
NODES = tuple(NodeId(name) for name in "abc")


def a_head(
    *, priority: int = 5, cpu: int = 1, gpus: int = 0, tenant: TenantId = ACME, tasks: int = 1
) -> Head:
    asked = resources(cpu=cpu, gpus=gpus)
    shape = Shape(OwnerKind.JOB, tenant, priority, asked, 24 * HOUR, task_count=tasks)
    return Head("head", 1, shape)


def a_job(
    name: str,
    *on: str,
    cpu: int = 1,
    gpus: int = 0,
    priority: int = 0,
    tenant: TenantId = ACME,
    placed_for: timedelta = HOUR,
    is_stopping: bool = False,
    ends_in: timedelta = HOUR,
) -> Running:
    held = {NodeId(node): resources(cpu=cpu, gpus=gpus) for node in on or ("a",)}
    return Running(
        name,
        tenant,
        held,
        placed_for,
        priority,
        ends_in=ends_in,
        stop_grace=SOON,
        is_stopping=is_stopping,
        attempt_count=len(held),
    )


def a_replica(name: str, *, on: str = "a", cpu: int = 1, tenant: TenantId = ACME) -> Running:
    return Running(name, tenant, {NodeId(on): resources(cpu=cpu)}, HOUR)


def a_yard(
    running: Sequence[Running], *, cpu: int = 4, gpus: int = 0, are_mixed: bool = True
) -> list[Node]:
    """Return the nodes on which these are, each of so many cores."""
    names = sorted({node for each in running for node in each.held})
    return [
        a_node(
            name,
            capacity=resources(cpu=cpu, memory=64, gpus=gpus),
            used=held_on(name, running),
            allows_mixed_tenants=are_mixed,
            holds=frozenset() if are_mixed else works_on(name, running),
        )
        for name in names
    ]


def held_on(node: NodeId, running: Sequence[Running]) -> Resources:
    return sum((each.held.get(node, Resources()) for each in running), Resources())


def works_on(node: NodeId, running: Sequence[Running]) -> frozenset[HeldWork]:
    return frozenset(
        HeldWork(each.tenant, OwnerKind.REPLICA if each.priority is None else OwnerKind.JOB)
        for each in running
        if node in each.held
    )


def chosen(head: Head, running: Sequence[Running], **yard: int | bool) -> list[str]:
    nodes = a_yard(running, **yard)  # type: ignore[arg-type]
    return [each.id for each in choose_victims(head, nodes, running)]


# Examples


def test_one_of_a_smaller_priority_makes_room() -> None:
    assert chosen(a_head(), [a_job("v", cpu=4)]) == ["v"]


def test_equal_and_larger_priorities_and_replicas_stay() -> None:
    for other in (a_job("v", cpu=4, priority=5), a_job("v", cpu=4, priority=9)):
        assert chosen(a_head(), [other]) == []
    assert chosen(a_head(), [a_replica("v", cpu=4)]) == []


def test_the_smallest_priority_goes_first_however_many_that_takes() -> None:
    running = [a_job("large", cpu=2, priority=1), a_job("v1"), a_job("v2")]
    assert sorted(chosen(a_head(cpu=2), running)) == ["v1", "v2"]


def test_of_one_priority_the_fewest_go() -> None:
    running = [a_job("v", cpu=2, placed_for=9 * HOUR), a_job("s1"), a_job("s2")]
    assert chosen(a_head(cpu=2), running) == ["v"]


def test_of_as_many_the_youngest_go() -> None:
    running = [a_job(f"v{age}", placed_for=age * HOUR) for age in (3, 1, 2, 4)]
    assert chosen(a_head(), running) == ["v1"]
    elsewhere = [a_job("old", "a", cpu=4, placed_for=2 * HOUR), a_job("young", "b", cpu=4)]
    assert chosen(a_head(cpu=4), elsewhere) == ["young"]


def test_all_tasks_have_room_or_nobody_is_stopped() -> None:
    running = [a_job("v1", "a", cpu=4), a_job("v2", "b", cpu=4), a_replica("r", on="c", cpu=4)]
    assert sorted(chosen(a_head(cpu=4, tasks=2), running)) == ["v1", "v2"]
    assert chosen(a_head(cpu=4, tasks=3), running) == []


def test_several_tasks_take_what_is_free_and_no_more_stop_than_they_lack() -> None:
    running = [a_job("v1", "a", cpu=4), a_job("v2", "b", cpu=2), a_job("v3", "c", cpu=2)]
    assert chosen(a_head(cpu=2, tasks=3), running) == ["v1"]
    assert chosen(a_head(cpu=2, tasks=4), running) == ["v1"]
    assert chosen(a_head(cpu=1, tasks=3), running) == []
    leaving = [*running, a_job("v4", "d", cpu=4, is_stopping=True)]
    assert chosen(a_head(cpu=2, tasks=3), leaving) == []


def test_for_several_tasks_the_smallest_priority_goes_first_and_of_one_the_fewest() -> None:
    larger = a_job("large", "a", cpu=4, priority=1)
    small = [a_job(f"s{number}", "b") for number in range(4)]
    few = [a_job("f1", "c", cpu=2), a_job("f2", "c", cpu=2)]
    assert sorted(chosen(a_head(cpu=4, tasks=1), [larger, *small])) == ["s0", "s1", "s2", "s3"]
    assert sorted(chosen(a_head(cpu=2, tasks=2), [larger, *small, *few])) == ["f1", "f2"]
    both = chosen(a_head(cpu=4, tasks=2), [larger, *small, *few])
    assert sorted(both) == ["f1", "f2", "s0", "s1", "s2", "s3"]


def test_for_several_tasks_the_youngest_go_of_as_many() -> None:
    running = [
        a_job(f"v{age}", node, cpu=4, placed_for=age * HOUR)
        for age, node in ((3, "a"), (1, "b"), (2, "c"))
    ]
    assert sorted(chosen(a_head(cpu=4, tasks=2), running)) == ["v1", "v2"]


def test_a_job_of_several_tasks_makes_all_of_its_room_for_another() -> None:
    gang = a_job("gang", "a", "b", cpu=4)
    singles = [a_job("s1", "c", cpu=4), a_job("s2", "d", cpu=4)]
    assert chosen(a_head(cpu=4, tasks=2), [gang, *singles]) == ["gang"]
    assert chosen(a_head(cpu=4, tasks=2, priority=0), [gang, *singles]) == []


def test_for_several_tasks_a_node_of_one_tenant_is_emptied_of_another_or_left_alone() -> None:
    others = [a_job("u1", "a", tenant=UMBRELLA), a_job("u2", "a", tenant=UMBRELLA)]
    own = [a_job("v1", "b", cpu=4)]
    running = [*others, *own]
    victims = chosen(a_head(cpu=1, tasks=8), running, are_mixed=False)
    assert sorted(victims) == ["u1", "u2", "v1"]
    stays = [*running, a_replica("r", tenant=UMBRELLA)]
    assert chosen(a_head(cpu=1, tasks=5), stays, are_mixed=False) == []
    assert chosen(a_head(cpu=1, tasks=4), stays, are_mixed=False) == ["v1"]


def test_what_has_ended_since_the_look_at_what_runs_is_booked_nowhere() -> None:
    running = [a_job("v1", "a", cpu=4), a_job("v2", "b", cpu=4)]
    nodes = [replace(node, used=Resources()) for node in a_yard(running)[:1]]
    nodes += a_yard(running)[1:]
    assert [each.id for each in choose_victims(a_head(cpu=4, tasks=2), nodes, running)] == ["v2"]


def test_room_on_two_nodes_is_no_room() -> None:
    running = [a_job("v1", "a"), a_replica("r1", on="a", cpu=3)]
    running += [a_job("v2", "b"), a_replica("r2", on="b", cpu=3)]
    assert chosen(a_head(cpu=2), running) == []


def test_nobody_is_stopped_while_what_leaves_makes_the_room() -> None:
    leaving = [a_job("v", cpu=2, is_stopping=True), a_job("other", cpu=2)]
    assert chosen(a_head(cpu=2), leaving) == []
    over_soon = [a_job("v", cpu=2, ends_in=SOON), a_job("other", cpu=2)]
    assert chosen(a_head(cpu=2), over_soon) == []
    assert chosen(a_head(cpu=3), leaving) == ["other"]


def test_what_stops_of_a_larger_priority_makes_room_too() -> None:
    leaving = [a_job("first", cpu=2, priority=9, is_stopping=True), a_job("other", cpu=2)]
    assert chosen(a_head(cpu=2), leaving) == []


def test_a_job_on_several_nodes_frees_all_of_them_and_counts_once() -> None:
    gang = a_job("gang", "a", "b", cpu=4)
    assert chosen(a_head(cpu=4), [gang]) == ["gang"]
    # Its stop costs as much work as those of two.
    running = [gang, a_job("single", "c", cpu=4, placed_for=1.5 * HOUR)]
    assert chosen(a_head(cpu=4), running) == ["single"]


def test_a_closed_node_is_left_alone() -> None:
    running = [a_job("v", cpu=4)]
    [node] = a_yard(running)
    for closed in (
        node.cordoned(at=NOW),
        node.drained(at=NOW),
        node.lost(at=NOW),
        replace(node, runtime_down_since=NOW),
    ):
        assert choose_victims(a_head(), [closed], running) == ()


def test_a_node_that_came_back_smaller_frees_only_what_it_has() -> None:
    running = [a_job("v1", cpu=4), a_job("v2", cpu=4)]
    [node] = a_yard(running, cpu=8)
    smaller = replace(node, capacity=resources(cpu=4, memory=64))
    assert len(choose_victims(a_head(cpu=4), [smaller], running)) == 2


def test_what_a_node_that_came_back_smaller_lacks_is_no_matter_to_who_asks_for_none_of_it() -> None:
    running = [a_job("v", cpu=1, gpus=1)]
    [node] = a_yard(running, cpu=2)
    assert choose_victims(a_head(cpu=1), [node], running) == ()


def test_a_node_of_one_tenant_is_emptied_of_another_or_left_alone() -> None:
    others = [a_job("u1", tenant=UMBRELLA), a_job("u2", tenant=UMBRELLA)]
    assert sorted(chosen(a_head(), others, are_mixed=False)) == ["u1", "u2"]
    larger = a_job("u3", tenant=UMBRELLA, priority=5)
    replica = a_replica("u3", tenant=UMBRELLA)
    for stays in (larger, replica):
        assert chosen(a_head(cpu=3), [*others, stays], are_mixed=False) == []
    leaving = [replace(each, is_stopping=True) for each in others]
    assert chosen(a_head(), leaving, are_mixed=False) == []


# Properties


@dataclass(frozen=True)
class Yard:
    """A head, nodes, and what is on them."""

    head: Head
    nodes: Sequence[Node]
    running: Sequence[Running]


def amounts(most: int) -> st.SearchStrategy[Resources]:
    return st.builds(Resources, *(st.integers(0, most) for _ in range(3)))


tenants = st.sampled_from([ACME, UMBRELLA])


@st.composite
def yards(draw: st.DrawFn) -> Yard:
    """Draw nodes of all kinds, some of which hold more than they have: they came back smaller."""
    running = [
        Running(
            f"job-{number}",
            draw(tenants),
            draw(st.dictionaries(st.sampled_from(NODES), amounts(4), min_size=1, max_size=2)),
            draw(st.integers(0, 5)) * HOUR,
            priority=draw(st.none() | st.integers(0, 4)),
            ends_in=draw(st.none() | st.sampled_from([SOON, HOUR])),
            stop_grace=SOON,
            is_stopping=draw(st.booleans()) and draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 7)))
    ]
    nodes = []
    for name in NODES:
        is_mixed = draw(st.booleans())
        nodes.append(
            Node(
                name,
                draw(amounts(12)),
                held_on(name, running),
                NOW,
                "process",
                runtime_down_since=draw(st.sampled_from([None, None, None, NOW])),
                cordoned_at=draw(st.sampled_from([None, None, None, NOW])),
                allows_mixed_tenants=is_mixed,
                holds=frozenset() if is_mixed else works_on(name, running),
            )
        )
    asked = draw(amounts(8)) + Resources(cpu_millicores=1)  # whoever asks for nothing fits anywhere
    task_count = draw(st.integers(1, 4))
    priority = draw(st.integers(0, 4))
    shape = Shape(OwnerKind.JOB, draw(tenants), priority, asked, HOUR, task_count=task_count)
    return Yard(Head("head", 1, shape), nodes, running)


def has_room(yard: Yard, gone: Sequence[Running]) -> bool:
    """Tell whether nodes take all of the head's tasks once these have ended."""
    head = yard.head
    stay = [each for each in yard.running if each not in gone]
    nodes = [
        replace(node, used=held_on(node.id, stay), holds=works_on(node.id, stay))
        for node in yard.nodes
    ]
    counts = [
        head.resources.count_in(node.free, most=head.task_count)
        for node in nodes
        if node.takes(head.tenant)
    ]
    return sum(counts) >= head.task_count


def leaving(yard: Yard) -> list[Running]:
    return [each for each in yard.running if each.leaves_anyway]


@given(yards())
def test_only_smaller_priorities_are_stopped_and_none_that_leaves_anyway(yard: Yard) -> None:
    for victim in choose_victims(yard.head, yard.nodes, yard.running):
        assert victim.priority is not None
        assert victim.priority < yard.head.shape.priority
        assert not victim.leaves_anyway


@given(yards())
def test_the_head_has_room_afterwards_and_would_not_if_one_stayed(yard: Yard) -> None:
    victims = choose_victims(yard.head, yard.nodes, yard.running)
    if not victims:
        return
    gone = [*leaving(yard), *victims]
    assert has_room(yard, gone)
    for victim in victims:
        assert not has_room(yard, [each for each in gone if each != victim])


@given(yards())
def test_somebody_is_stopped_where_and_only_where_that_is_what_it_takes(yard: Yard) -> None:
    victims = choose_victims(yard.head, yard.nodes, yard.running)
    could = [each for each in yard.running if each.may_be_stopped_for(yard.head)]
    helps = has_room(yard, [*leaving(yard), *could]) and not has_room(yard, leaving(yard))
    assert bool(victims) == helps


@given(yards())
def test_no_other_choice_spares_the_largest_priority_that_is_met(yard: Yard) -> None:
    victims = choose_victims(yard.head, yard.nodes, yard.running)
    if not victims:
        return
    largest = max(each.priority or 0 for each in victims)
    smaller = [
        each
        for each in yard.running
        if each.may_be_stopped_for(yard.head) and (each.priority or 0) < largest
    ]
    assert not has_room(yard, [*leaving(yard), *smaller])


@given(yards())
def test_one_is_stopped_where_one_of_that_priority_is_enough(yard: Yard) -> None:
    victims = choose_victims(yard.head, yard.nodes, yard.running)
    if not victims:
        return
    largest = max(each.priority or 0 for each in victims)
    could = [
        each
        for each in yard.running
        if each.may_be_stopped_for(yard.head) and (each.priority or 0) <= largest
    ]
    enough = [each for each in could if has_room(yard, [*leaving(yard), each])]
    if enough:
        assert len(victims) == 1
