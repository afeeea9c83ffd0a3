"""What any plan must hold, for any line and any nodes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.line import Head, Line, Shape
from services.scheduler.domain.scheduling.plan import (
    SEARCHES_EACH_MIN,
    SEARCHES_MAX,
    Decisions,
    Holding,
    Placement,
    Reservation,
    Snapshot,
    plan,
)
from services.scheduler.domain.scheduling.shares import Shares
from tests.unit.scheduler.builders import ACME, NOW, UMBRELLA, a_node, resources

HOUR = timedelta(hours=1)

tenants = st.sampled_from([ACME, UMBRELLA])
lengths = st.integers(0, 5).map(lambda hours: hours * HOUR)
task_counts = st.sampled_from([1, 1, 1, 2, 3, 5])


def amounts(cores_max: int) -> st.SearchStrategy[Resources]:
    return st.builds(
        Resources,
        st.integers(0, cores_max).map(lambda cores: cores * 1_000),
        st.integers(0, cores_max),
        st.integers(0, cores_max // 2),
    )


@st.composite
def lines(draw: st.DrawFn) -> list[Head]:
    count = draw(st.integers(0, 12))
    heads = []
    for seq in draw(st.permutations(range(count))):
        kind = draw(st.sampled_from(OwnerKind))
        heads.append(
            Head(
                f"head-{seq}",
                seq,
                Shape(
                    kind,
                    draw(tenants),
                    draw(st.integers(0, 3)),
                    draw(amounts(8)),
                    run_max=draw(lengths) if kind is OwnerKind.JOB else None,
                    task_count=draw(task_counts) if kind is OwnerKind.JOB else 1,
                ),
            )
        )
    return heads


@dataclass(frozen=True)
class Fleet:
    """Nodes, and what is on them."""

    nodes: Sequence[Node]
    holdings: Sequence[Holding]


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Draw nodes of which some take one tenant's work at a time, and hold some: once even two's.

    A node may hold more than it has: it came back smaller.
    """
    nodes, holdings = [], []
    for number in range(draw(st.integers(0, 4))):
        on_this = [
            Holding(NodeId(f"node-{number}"), draw(tenants), draw(amounts(4)), draw(ends))
            for _ in range(draw(st.integers(0, 3)))
        ]
        is_mixed = draw(st.booleans())
        nodes.append(
            Node(
                NodeId(f"node-{number}"),
                draw(amounts(8)),
                sum((each.resources for each in on_this), Resources()),
                NOW,
                "process",
                None,
                allows_mixed_tenants=is_mixed,
                holds=frozenset() if is_mixed else frozenset(each.work for each in on_this),
            )
        )
        holdings += on_this
    return Fleet(nodes, holdings)


ends = st.none() | lengths
Left = Mapping[TenantId, Resources]
lefts = st.dictionaries(tenants, amounts(8))


def head(
    name: str,
    *,
    cpu: int,
    priority: int = 0,
    seq: int = 0,
    kind: OwnerKind = OwnerKind.JOB,
    tenant: TenantId = ACME,
    run_max: timedelta = 24 * HOUR,
    tasks: int = 1,
) -> Head:
    lasts = run_max if kind is OwnerKind.JOB else None
    shape = Shape(kind, tenant, priority, resources(cpu=cpu), lasts, task_count=tasks)
    return Head(name, seq, shape)


def holding(
    cpu: int = 1, *, on: str = "a", tenant: TenantId = ACME, ends_in: timedelta | None = HOUR
) -> Holding:
    return Holding(NodeId(on), tenant, resources(cpu=cpu), ends_in)


def a_fleet(
    *names: str, holdings: Sequence[Holding] = (), allows_mixed_tenants: bool = True
) -> Fleet:
    """Return nodes of eight cores each, with what is on them."""
    nodes = []
    for name in names or ("a",):
        on_this = [each for each in holdings if each.node_id == name]
        works = frozenset(each.work for each in on_this)
        nodes.append(
            a_node(
                name,
                capacity=resources(cpu=8, memory=8),
                used=sum((each.resources for each in on_this), Resources()),
                allows_mixed_tenants=allows_mixed_tenants,
                holds=frozenset() if allows_mixed_tenants else works,
            )
        )
    return Fleet(nodes, holdings)


a_tenants_fleet = partial(a_fleet, allows_mixed_tenants=False)
"""Nodes that take one tenant's work at a time."""


def snapshot(line: Sequence[Head], fleet: Fleet, left: Left, *, heads_max: int = 50) -> Snapshot:
    """Return what is seen; what tenants hold is what is on the nodes."""
    held: dict[TenantId, Resources] = defaultdict(Resources)
    for each in fleet.holdings:
        held[each.tenant] += each.resources
    capacity = sum((node.capacity for node in fleet.nodes), Resources())
    shares = Shares(capacity, held)
    return Snapshot(Line.of(line), fleet.nodes, shares, left, heads_max, holdings=fleet.holdings)


def planned(line: Sequence[Head], fleet: Fleet, left: Left) -> Decisions:
    return plan(snapshot(line, fleet, left))


def as_left_by(placements: Sequence[Placement], fleet: Fleet) -> list[Node]:
    """Return the nodes with what was placed on them."""
    nodes = {node.id: node for node in fleet.nodes}
    for placement in placements:
        for node_id in placement.node_ids:
            booked = nodes[node_id].booked(placement.head.resources, by=placement.head.work)
            nodes[node_id] = booked
    return list(nodes.values())


def room_for(head: Head, nodes: Sequence[Node]) -> int:
    """Return for how many tasks like these there is room, one after another."""
    count = 0
    for node in nodes:
        while count < head.task_count and node.has_room_for(head.resources, of=head.tenant):
            node = node.booked(head.resources, by=head.work)  # noqa: PLW2901
            count += 1
    return count


def waiting(line: Sequence[Head], decisions: Decisions, left: Left) -> list[Head]:
    """Return who is not placed, though its tenant may have it; by their turns."""
    found = []
    done = {placement.head.id for placement in decisions.placements}
    for each in line:
        if each.id in done:
            continue
        before = turn_of(each, decisions)
        taken = sum(
            (other.head.total for other in before if other.head.tenant == each.tenant),
            Resources(),
        )
        if each.tenant not in left or (each.total + taken).fits_in(left[each.tenant]):
            found.append(each)
    return sorted(found, key=lambda each: len(turn_of(each, decisions)))


def turn_of(head: Head, decisions: Decisions) -> Sequence[Placement]:
    """Return what was placed before a head that was not had its turn."""
    return decisions.placements[: decisions.refused[head.shape]]


def at_the_turn_of(head: Head, decisions: Decisions, fleet: Fleet) -> list[Node]:
    return as_left_by(turn_of(head, decisions), fleet)


def key(
    head: Head, placements: Sequence[Placement], seen: Snapshot
) -> tuple[bool, int, float, int]:
    """Return the key of ADR-0034 once these are carried out; the smaller one has its turn."""
    if head.kind is OwnerKind.REPLICA:
        return (False, 0, 0.0, head.queue_seq)
    given = sum(
        (each.head.total for each in placements if each.head.tenant == head.tenant), Resources()
    )
    share = seen.shares.of(head.tenant, more=given)
    return (True, -head.shape.priority, share, head.queue_seq)


def comes_first(head: Head, other: Head, decisions: Decisions) -> bool:
    """Tell whether one that was not placed had its turn before another, or at least no later."""
    return decisions.refused[head.shape] <= decisions.refused[other.shape]


def placed(decisions: Decisions) -> list[tuple[str, str]]:
    return [(placement.head.id, placement.node_id) for placement in decisions.placements]


@given(lines(), fleets(), lefts)
def test_plan_never_books_more_than_is_free_or_the_tenant_has_left(
    line: list[Head], fleet: Fleet, left: Left
) -> None:
    booked: dict[str, Resources] = defaultdict(Resources)
    for placement in planned(line, fleet, left).placements:
        for node_id in placement.node_ids:
            booked[node_id] += placement.head.resources
        booked[placement.head.tenant] += placement.head.total
    for node in fleet.nodes:
        assert booked[node.id].fits_in(node.free)
    for tenant, theirs in left.items():
        assert booked[tenant].fits_in(theirs)


@given(lines(), fleets(), lefts)
def test_plan_puts_nobody_beside_another_tenant_where_these_are_not_mixed(
    line: list[Head], fleet: Fleet, left: Left
) -> None:
    there = {node.id: {held.tenant for held in node.holds} for node in fleet.nodes}
    apart = {node.id for node in fleet.nodes if not node.allows_mixed_tenants}
    for placement in planned(line, fleet, left).placements:
        for node_id in placement.node_ids:
            if node_id in apart:
                assert there[node_id] <= {placement.head.tenant}
            there[node_id].add(placement.head.tenant)


@given(lines(), fleets(), lefts)
def test_plan_gives_each_task_a_node_or_none_of_them_as_few_as_can_be(
    line: list[Head], fleet: Fleet, left: Left
) -> None:
    decisions = planned(line, fleet, left)
    for place, placement in enumerate(decisions.placements):
        head = placement.head
        assert len(placement.node_ids) == head.task_count
        if place == 0:  # nothing is kept for anybody before it
            most = head.task_count
            counts = sorted(
                (
                    head.resources.count_in(node.free, most=most)
                    for node in fleet.nodes
                    if node.takes(head.tenant)
                ),
                reverse=True,
            )
            fewest = next(n for n in range(len(counts) + 1) if sum(counts[:n]) >= most)
            assert len(set(placement.node_ids)) == fewest


@given(lines(), fleets(), lefts)
def test_plan_gives_turns_in_order_of_what_tenants_have_by_then(
    line: list[Head], fleet: Fleet, left: Left
) -> None:
    seen = snapshot(line, fleet, left)
    decisions = plan(seen)
    done = [placement.head for placement in decisions.placements]
    assert len({each.id for each in done}) == len(done)
    for place, head in enumerate(done):
        before = decisions.placements[:place]
        for other in set(line) - set(done[: place + 1]):
            had_its_turn = other not in done and decisions.refused[other.shape] <= place
            assert had_its_turn or key(head, before, seen) < key(other, before, seen)
    for head in set(line) - set(done):
        turn = decisions.refused[head.shape]
        for other in done[turn : turn + 1]:
            first = min(
                each.queue_seq for each in set(line) - set(done) if each.shape == head.shape
            )
            asked = replace(head, queue_seq=first)
            assert key(asked, done_before(turn, decisions), seen) < key(
                other, done_before(turn, decisions), seen
            )


def done_before(turn: int, decisions: Decisions) -> Sequence[Placement]:
    return decisions.placements[:turn]


@given(lines(), fleets(), lefts)
def test_who_fits_at_its_turn_waits_only_behind_a_replica_or_for_what_is_kept_for_another(
    line: list[Head], fleet: Fleet, left: Left
) -> None:
    decisions = planned(line, fleet, left)
    kept = decisions.reservation
    for each in waiting(line, decisions, left):
        nodes = at_the_turn_of(each, decisions, fleet)
        roomy = [
            node for node in nodes if each.resources.fits_in(node.free) and node.takes(each.tenant)
        ]
        if room_for(each, nodes) < each.task_count:
            continue
        if each.kind is OwnerKind.REPLICA:
            replicas = [other for other in waiting(line, decisions, left) if other.run_max is None]
            assert not roomy or min(other.queue_seq for other in replicas) < each.queue_seq
        else:
            let = [node for node in roomy if kept is None or kept.lets(each, node)]
            assert room_for(each, let) < each.task_count
            assert not roomy or (kept is not None and comes_first(kept.head, each, decisions))


@given(lines(), fleets(), lefts)
def test_no_replica_passes_one_that_some_node_could_hold(
    line: list[Head], fleet: Fleet, left: Left
) -> None:
    decisions = planned(line, fleet, left)
    done = [each.head for each in decisions.placements if each.head.kind is OwnerKind.REPLICA]
    for each in waiting(line, decisions, left):
        if each.kind is OwnerKind.REPLICA and any(
            each.resources.fits_in(node.capacity) and node.will_take(each.tenant)
            for node in at_the_turn_of(each, decisions, fleet)
        ):
            assert all(other.queue_seq < each.queue_seq for other in done)


@given(lines(), fleets(), lefts)
def test_the_first_job_that_an_end_makes_room_for_has_it_reserved(
    line: list[Head], fleet: Fleet, left: Left
) -> None:
    decisions = planned(line, fleet, left)
    for each in waiting(line, decisions, left):
        if each.kind is not OwnerKind.JOB:
            continue
        before = turn_of(each, decisions)
        if _freed(each, before, fleet) >= each.task_count:
            kept = decisions.reservation
            assert kept is not None
            assert kept.head.shape == each.shape or comes_first(kept.head, each, decisions)
            return


@given(lines(), fleets())
def test_room_is_kept_on_the_node_of_all_where_it_is_free_first(
    line: list[Head], fleet: Fleet
) -> None:
    for each in line:
        if each.kind is not OwnerKind.JOB or each.task_count > 1:
            continue
        decisions = planned([each], fleet, {})
        alone = [
            planned([each], Fleet([node], on_it), {}).reservation
            for node in fleet.nodes
            for on_it in [[held for held in fleet.holdings if held.node_id == node.id]]
        ]
        found = [(kept.starts_in, kept.node_id) for kept in alone if kept is not None]
        kept = decisions.reservation
        assert decisions.placements or (kept is None) == (not found)
        if kept is not None:
            assert (kept.starts_in, kept.node_id) == min(found)


@st.composite
def busy_fleets(draw: st.DrawFn) -> Fleet:
    """Draw nodes that are partly taken, by jobs alone: whoever wants a whole one waits for them."""
    names = [f"node-{number}" for number in range(draw(st.integers(1, 3)))]
    holdings = [
        holding(draw(st.integers(1, 4)), on=name, ends_in=draw(st.integers(1, 5)) * HOUR)
        for name in names
        for _ in range(draw(st.integers(1, 2)))
    ]
    return a_fleet(*names, holdings=holdings)


small = st.builds(
    partial(head, "small"),
    cpu=st.integers(1, 3),
    run_max=st.integers(0, 9).map(lambda n: n * HOUR),
    tasks=st.integers(1, 3),
)


@given(busy_fleets(), st.lists(small, min_size=1, max_size=8), st.integers(4, 8), st.data())
def test_who_passes_delays_nobody_if_all_run_to_their_limits(
    fleet: Fleet, passers: list[Head], cpu: int, data: st.DataObject
) -> None:
    most = len(fleet.nodes) * (8 // cpu)
    first = head("first", cpu=cpu, tasks=data.draw(st.integers(1, most)))
    if room_for(first, fleet.nodes) == first.task_count:
        return
    line = [first, *(replace(each, id=f"p-{n}", queue_seq=n + 1) for n, each in enumerate(passers))]
    alone, together = planned([first], fleet, {}), planned(line, fleet, {})
    kept = together.reservation
    assert kept is not None
    assert kept == alone.reservation
    assert _freed(first, together.placements, fleet, after=kept.starts_in) == first.task_count
    if kept.starts_in > timedelta(0):
        before = kept.starts_in - timedelta(seconds=1)
        assert _freed(first, (), fleet, after=before) < first.task_count


def _freed(
    head: Head,
    placements: Sequence[Placement],
    fleet: Fleet,
    *,
    after: timedelta = timedelta.max,
) -> int:
    """Return for how many tasks of a head nodes have room once all is over that ends until then."""
    given = [
        Holding(node_id, each.head.tenant, each.head.resources, each.head.run_max)
        for each in placements
        for node_id in each.node_ids
    ]
    stay = [
        each for each in [*fleet.holdings, *given] if each.ends_in is None or each.ends_in > after
    ]
    count = 0
    for node in fleet.nodes:
        theirs = [each for each in stay if each.node_id == node.id]
        used = sum((each.resources for each in theirs), Resources())
        if node.allows_mixed_tenants or {each.tenant for each in theirs} <= {head.tenant}:
            left = node.capacity.less(used)
            count += head.resources.count_in(left, most=head.task_count - count)
    return count


@given(lines(), fleets(), lefts)
def test_plan_does_not_depend_on_the_order_of_what_it_is_given(
    line: list[Head], fleet: Fleet, left: Left
) -> None:
    turned = Fleet(fleet.nodes[::-1], fleet.holdings[::-1])
    assert planned(line, fleet, left) == planned(line[::-1], turned, left)


@given(lines(), fleets(), lefts, st.integers(0, 6))
def test_a_plan_that_may_look_at_less_is_the_beginning_of_the_whole_one(
    line: list[Head], fleet: Fleet, left: Left, heads_max: int
) -> None:
    whole = planned(line, fleet, left)
    cut = plan(snapshot(line, fleet, left, heads_max=heads_max))
    assert sum(each.head.task_count for each in cut.placements[:-1]) < max(1, heads_max)
    assert cut.placements == whole.placements[: len(cut.placements)]
    assert cut.is_cut or cut == whole


@given(lines(), st.lists(st.integers(1, 4), min_size=12, max_size=12), fleets(), lefts)
def test_elements_of_an_array_are_placed_as_so_many_jobs_that_came_one_after_another(
    line: list[Head], counts: list[int], fleet: Fleet, left: Left
) -> None:
    arrays = [
        replace(each, queue_seq=10 * each.queue_seq, count=count)
        for each, count in zip(line, counts, strict=False)
        if each.kind is OwnerKind.JOB
    ]
    jobs = [
        Head(f"{each.id}-{number}", each.queue_seq + number, each.shape)
        for each in arrays
        for number in range(each.count)
    ]
    of_arrays, of_jobs = planned(arrays, fleet, left), planned(jobs, fleet, left)
    assert [
        (each.head.queue_seq + each.head.array_index, each.node_ids)
        for each in of_arrays.placements
    ] == [(each.head.queue_seq, each.node_ids) for each in of_jobs.placements]
    assert of_arrays.refused == of_jobs.refused
    assert (of_arrays.reservation is None) == (of_jobs.reservation is None)


@given(lines(), fleets(), lefts)
def test_a_plan_that_does_not_know_what_ends_places_whoever_comes_before_it_has_to(
    line: list[Head], fleet: Fleet, left: Left
) -> None:
    whole = planned(line, fleet, left)
    blind = plan(replace(snapshot(line, fleet, left), holdings=None))
    assert blind.placements == whole.placements[: len(blind.placements)]
    assert blind.needs_holdings or blind.placements == whole.placements
    assert blind.reservation is None


@given(lines(), fleets(), lefts, st.integers(1, 12))
def test_a_plan_that_knows_what_ends_first_decides_the_same_or_asks_for_the_rest(
    line: list[Head], fleet: Fleet, left: Left, known_count: int
) -> None:
    whole = planned(line, fleet, left)
    known = sorted(fleet.holdings, key=lambda each: each.ends_in or timedelta.max)[:known_count]
    last = max((each.ends_in for each in known if each.ends_in is not None), default=timedelta(0))
    is_cut = len(known) < len(fleet.holdings)
    seen = replace(
        snapshot(line, fleet, left), holdings=known, ends_known_to=last if is_cut else None
    )
    decisions = plan(seen)
    if decisions.needs_holdings:
        assert is_cut
        assert decisions.placements == whole.placements[: len(decisions.placements)]
    else:
        assert decisions.placements == whole.placements
        assert decisions.blocked == whole.blocked
        assert _instant(decisions) == _instant(whole)


def _instant(decisions: Decisions) -> tuple[str, timedelta] | None:
    kept = decisions.reservation
    return None if kept is None else (kept.head.id, kept.starts_in)


def test_larger_priority_goes_first_then_who_came_first() -> None:
    line = [
        head("late", cpu=1, seq=3),
        head("early", cpu=1, seq=1),
        head("urgent", cpu=1, seq=9, priority=50),
    ]
    done = placed(planned(line, a_fleet(), {}))
    assert [name for name, _ in done] == ["urgent", "early", "late"]


def test_a_head_that_does_not_fit_is_passed_by_what_ends_before_it_will() -> None:
    line = [
        head("large", cpu=8, seq=1),
        head("as long", cpu=1, seq=2, run_max=HOUR),
        head("short", cpu=1, seq=3, run_max=HOUR / 2),
    ]
    decisions = planned(line, a_fleet(holdings=[holding()]), {})
    assert placed(decisions) == [("short", "a")]
    assert decisions.reservation == Reservation(line[0], NodeId("a"), starts_in=HOUR)


def test_a_head_that_does_not_fit_keeps_all_nodes_that_it_could_use_and_no_others() -> None:
    line = [head("large", cpu=8, seq=1), head("long", cpu=1, seq=2)]
    fleet = a_fleet("a", "b", holdings=[holding(on="a"), holding(on="b", ends_in=3 * HOUR)])
    assert placed(planned(line, fleet, {})) == []
    small = a_node("small", capacity=resources(cpu=4, memory=4))
    with_small = Fleet([*fleet.nodes, small], fleet.holdings)
    assert placed(planned(line, with_small, {})) == [("long", "small")]


def test_room_is_kept_where_it_is_free_first_for_the_first_that_does_not_fit() -> None:
    line = [head("large", cpu=7, seq=1), head("larger", cpu=8, seq=2)]
    holdings = [holding(2, on="a", ends_in=3 * HOUR), holding(1, on="a"), holding(1, on="b")]
    fleet = a_fleet("a", "b", holdings=[*holdings, holding(1, on="b", ends_in=2 * HOUR)])
    assert planned(line, fleet, {}).reservation == Reservation(line[0], NodeId("b"), starts_in=HOUR)


def test_who_waits_for_what_never_ends_by_itself_holds_up_nobody() -> None:
    line = [head("large", cpu=8, seq=1), head("small", cpu=1, seq=2)]
    serving = a_fleet(holdings=[holding(ends_in=None)])
    assert placed(planned(line, serving, {})) == [("small", "a")]


def test_one_that_is_alone_in_line_needs_no_look_at_what_ends() -> None:
    seen = replace(
        snapshot([head("large", cpu=8)], a_fleet(holdings=[holding()]), {}), holdings=None
    )
    assert not plan(seen).needs_holdings


def test_the_first_without_room_is_told_whether_anybody_stands_behind_it_or_not() -> None:
    large, small = head("large", cpu=8, seq=1), head("small", cpu=1, seq=2)
    fleet = a_fleet(holdings=[holding()])
    alone = replace(snapshot([large], fleet, {}), holdings=None)
    assert plan(alone).blocked == large
    assert planned([large, small], fleet, {}).blocked == large
    assert planned([small], fleet, {}).blocked is None


def test_who_waits_for_what_never_ends_is_not_the_first_without_room() -> None:
    line = [head("large", cpu=8, seq=1), head("next", cpu=8, seq=2)]
    serving = a_fleet(holdings=[holding(ends_in=None)])
    assert planned(line, serving, {}).blocked is None


def test_what_ends_is_looked_at_only_where_somebody_has_room_behind_one_that_has_none() -> None:
    line = [head("large", cpu=8, seq=1), head("also large", cpu=7, seq=2)]
    small = head("small", cpu=1, seq=3)
    full = a_fleet(holdings=[holding(8)])
    some = a_fleet(holdings=[holding(4)])
    asked = [
        plan(replace(snapshot(heads, fleet, {}), holdings=None)).needs_holdings
        for fleet in (full, some)
        for heads in (line, [*line, small])
    ]
    assert asked == [False, False, False, True]


def test_who_waits_for_what_never_ends_takes_nobodys_look() -> None:
    waiting = [head(f"large-{n}", cpu=8, seq=n, run_max=n * HOUR) for n in range(1, 6)]
    serving = a_fleet("a", "b", holdings=[holding(on="a", ends_in=None)])
    line = [*waiting, head("small", cpu=1, seq=9)]
    small = a_node("small", capacity=resources(cpu=4, memory=4))
    on_all = Fleet([serving.nodes[0], small], serving.holdings)
    assert placed(plan(snapshot(line, on_all, {}, heads_max=2))) == [("small", "small")]


def test_one_tenants_jobs_that_find_no_room_keep_nobody_from_idle_nodes() -> None:
    blocked = [head(f"large-{n}", cpu=8, seq=n, run_max=n * HOUR) for n in range(1, 61)]
    busy = a_fleet(holdings=[holding()])
    idle = a_node("idle", capacity=resources(cpu=4, memory=4))
    line = [*blocked, head("small", cpu=4, seq=99), head("theirs", cpu=1, tenant=UMBRELLA, seq=99)]
    decisions = planned(line, Fleet([*busy.nodes, idle], busy.holdings), {})
    assert decisions.reservation is not None
    assert placed(decisions) == [("theirs", "idle")]
    decisions = planned(line[:-1], Fleet([*busy.nodes, idle], busy.holdings), {})
    assert placed(decisions) == [("small", "idle")]


def test_a_tenant_that_asks_for_many_things_in_vain_uses_up_its_own_searches_alone() -> None:
    # No node has both, so each different request is searched for on all of them.
    nodes = [
        a_node("cpu", capacity=Resources(1 << 20, 0)),
        a_node("memory", capacity=Resources(0, 1 << 20)),
    ]
    line = [
        Head(f"odd-{n}", n, Shape(OwnerKind.JOB, tenant, 0, Resources(1 + n, 1), HOUR))
        for tenant in (ACME, UMBRELLA)
        for n in range(SEARCHES_MAX)
    ]
    fitting = Shape(OwnerKind.JOB, ACME, 0, Resources(1), HOUR)
    theirs = Head("theirs", SEARCHES_MAX, replace(fitting, tenant=UMBRELLA))
    last = Head("last", SEARCHES_MAX, fitting)
    fleet = Fleet(nodes, ())
    assert len(planned(line, fleet, {}).refused) < SEARCHES_MAX
    some = [each for each in line if each.tenant == ACME or each.queue_seq < SEARCHES_EACH_MIN]
    decisions = planned([*some, last, theirs], fleet, {})
    assert placed(decisions) == [("theirs", "cpu")]
    assert last.shape not in decisions.refused


def test_tasks_share_as_few_nodes_as_they_can_and_leave_the_last_one_fullest() -> None:
    line = [head("gang", cpu=3, tasks=5)]
    fleet = a_fleet("a", "b", "c", "d", holdings=[holding(5, on="b"), holding(1, on="c")])
    [placement] = planned(line, fleet, {}).placements
    assert sorted(placement.node_ids) == ["a", "a", "b", "c", "c"]
    assert planned([head("gang", cpu=3, tasks=8)], fleet, {}).placements == []


def test_tasks_wait_for_the_instant_at_which_there_is_room_for_all_of_them() -> None:
    line = [head("gang", cpu=8, seq=1, tasks=3), head("long", cpu=1, seq=2)]
    holdings = [holding(on="a"), holding(on="b", ends_in=3 * HOUR)]
    fleet = a_fleet("a", "b", "c", holdings=holdings)
    decisions = planned(line, fleet, {})
    assert placed(decisions) == []
    assert decisions.reservation == Reservation(line[0], NodeId("b"), starts_in=3 * HOUR)
    serving = a_fleet("a", "b", "c", holdings=[holding(on="a"), holding(on="b", ends_in=None)])
    assert placed(planned(line, serving, {})) == [("long", "a")]


def test_a_plan_bounds_what_all_tasks_take_together() -> None:
    line = [head("gang", cpu=1, seq=1, tasks=3), head("pair", cpu=1, seq=2, tasks=2)]
    [placement] = planned(line, a_fleet(), {ACME: resources(cpu=2, memory=9)}).placements
    assert placement.head.id == "pair"


def test_a_head_that_no_node_could_ever_hold_does_not() -> None:
    line = [head("giant", cpu=99, seq=1), head("small", cpu=1, seq=2)]
    assert placed(planned(line, a_fleet(), {})) == [("small", "a")]


def test_a_replica_that_waits_does_not_hold_up_jobs() -> None:
    line = [head("replica", cpu=8, seq=1, kind=OwnerKind.REPLICA), head("job", cpu=1, seq=2)]
    assert placed(planned(line, a_fleet(holdings=[holding()]), {})) == [("job", "a")]


def test_a_replica_takes_room_that_is_kept_for_a_job() -> None:
    line = [head("job", cpu=8, seq=1), head("replica", cpu=1, seq=2, kind=OwnerKind.REPLICA)]
    assert placed(planned(line, a_fleet(holdings=[holding()]), {})) == [("replica", "a")]


def test_jobs_of_a_paused_queue_hold_up_nobody_and_take_nobodys_look() -> None:
    line = [head("held", cpu=8, seq=1), head("large", cpu=8, seq=2), head("free", cpu=1, seq=3)]
    held, *others = [
        replace(each, shape=replace(each.shape, queue=queue))
        for each, queue in zip(line, ("nightly", "weekly", "weekly"), strict=True)
    ]
    seen = snapshot([held, *others], a_fleet(), {}, heads_max=1)
    assert placed(plan(replace(seen, paused={(ACME, "nightly")}))) == [("large", "a")]
    assert placed(plan(replace(seen, paused={(UMBRELLA, "nightly")}))) == [("held", "a")]


def test_small_heads_leave_the_empty_node_to_large_ones() -> None:
    fleet = a_fleet("empty", "half", holdings=[holding(4, on="half")])
    assert placed(planned([head("small", cpu=2)], fleet, {})) == [("small", "half")]


def test_an_empty_node_is_the_first_tenants_for_the_rest_of_the_plan() -> None:
    line = [
        head("first", cpu=1, seq=1),
        head("other", cpu=1, seq=2, tenant=UMBRELLA),
        head("second", cpu=1, seq=3),
    ]
    assert placed(planned(line, a_tenants_fleet("a"), {})) == [("first", "a")]
    fleet = a_tenants_fleet("a", "b")
    assert placed(planned(line, fleet, {})) == [("first", "a"), ("other", "b"), ("second", "a")]


def test_who_is_kept_out_by_another_tenants_jobs_has_its_turn_when_they_are_over() -> None:
    line = [
        head("kept out", cpu=1, seq=1, tenant=UMBRELLA),
        head("long", cpu=1, seq=2, run_max=3 * HOUR),
        head("short", cpu=1, seq=3, run_max=HOUR),
    ]
    busy = a_tenants_fleet(holdings=[holding(ends_in=2 * HOUR), holding(ends_in=HOUR)])
    decisions = planned(line, busy, {})
    assert placed(decisions) == [("short", "a")]
    assert decisions.reservation == Reservation(line[0], NodeId("a"), starts_in=2 * HOUR)
    assert placed(planned(line, a_tenants_fleet(), {})) == [("kept out", "a")]


def test_who_is_kept_out_by_another_tenants_replica_holds_up_nobody() -> None:
    line = [head("kept out", cpu=1, seq=1, tenant=UMBRELLA), head("late", cpu=1, seq=2)]
    serving = a_tenants_fleet(holdings=[holding(ends_in=None)])
    assert placed(planned(line, serving, {})) == [("late", "a")]


def test_a_replica_that_is_placed_first_keeps_another_tenants_job_out_and_holds_up_nobody() -> None:
    line = [
        head("replica", cpu=1, seq=1, kind=OwnerKind.REPLICA),
        head("kept out", cpu=1, seq=2, tenant=UMBRELLA),
        head("late", cpu=1, seq=3),
    ]
    decisions = planned(line, a_tenants_fleet("a"), {})
    assert placed(decisions) == [("replica", "a"), ("late", "a")]


def test_who_has_used_up_its_plan_lets_others_pass_and_its_own_that_fit() -> None:
    line = [
        head("large", cpu=3, seq=1),
        head("small", cpu=1, seq=2),
        head("other", cpu=6, seq=3, tenant=UMBRELLA),
        head("too much", cpu=2, seq=4),
    ]
    done = placed(planned(line, a_fleet(), {ACME: resources(cpu=2, memory=9)}))
    assert done == [("small", "a"), ("other", "a")]


def test_a_stream_of_short_jobs_whose_starts_take_long_keeps_nobody_waiting_for_ever() -> None:
    """Each is over its limit by its start; time counts from the placement, so they don't add up."""
    first, start_takes, tick = head("first", cpu=8, seq=0), HOUR / 6, timedelta(minutes=1)
    now, node = timedelta(0), a_fleet().nodes[0]
    running = [(now + HOUR, now + HOUR + start_takes)]  # by its limit, and in truth
    for number in range(240):
        limit = HOUR - timedelta(seconds=number)
        passer = head(f"passer-{number}", cpu=1, seq=number + 1, run_max=limit)
        holdings = [holding(ends_in=max(timedelta(0), by_limit - now)) for by_limit, _ in running]
        used = resources(cpu=len(running))
        now_on = Fleet([replace(node, used=used)], holdings)
        placed_now = planned([first, passer], now_on, {}).placements
        if any(each.head == first for each in placed_now):
            break
        running += [(now + limit, now + limit + start_takes) for _ in placed_now]
        now += tick
        running = [(by_limit, ends_at) for by_limit, ends_at in running if ends_at > now]
    assert now <= HOUR + start_takes
