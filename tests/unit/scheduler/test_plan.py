"""What any plan must hold, for any line and any nodes."""

from collections import defaultdict
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.fleet.node import HeldWork, Node
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.plan import Head, Placement, plan
from tests.unit.scheduler.builders import ACME, NOW, UMBRELLA, a_node, resources

amounts = st.builds(
    Resources,
    st.integers(0, 8).map(lambda cores: cores * 1_000),
    st.integers(0, 8),
    st.integers(0, 4),
)


@st.composite
def lines(draw: st.DrawFn) -> list[Head]:
    count = draw(st.integers(0, 12))
    return [
        Head(
            kind=draw(st.sampled_from(OwnerKind)),
            id=f"head-{seq}",
            tenant=draw(st.sampled_from([ACME, UMBRELLA])),
            priority=draw(st.integers(0, 3)),
            queue_seq=seq,
            resources=draw(amounts),
        )
        for seq in draw(st.permutations(range(count)))
    ]


held_work = st.builds(HeldWork, st.sampled_from([ACME, UMBRELLA]), st.sampled_from(OwnerKind))


@st.composite
def fleets(draw: st.DrawFn) -> list[Node]:
    """Draw nodes of which some take one tenant's work at a time, and hold some: once even two's."""
    return [
        Node(
            NodeId(f"node-{n}"),
            draw(amounts),
            draw(amounts),
            NOW,
            "process",
            None,
            allows_mixed_tenants=draw(st.booleans()),
            holds=draw(st.frozensets(held_work, max_size=2)),
        )
        for n in range(draw(st.integers(0, 4)))
    ]


Left = Mapping[TenantId, Resources]
lefts = st.dictionaries(st.sampled_from([ACME, UMBRELLA]), amounts)


def head(
    name: str,
    *,
    cpu: int,
    priority: int = 0,
    seq: int = 0,
    kind: OwnerKind = OwnerKind.JOB,
    tenant: TenantId = ACME,
) -> Head:
    return Head(kind, name, tenant, priority, seq, resources(cpu=cpu))


def before_all(placements: list[Placement], head: Head) -> list[Placement]:
    return [placement for placement in placements if placement.head.order < head.order]


def as_left_by(placements: list[Placement], fleet: list[Node]) -> list[Node]:
    """Return the nodes with what was placed on them."""
    nodes = {node.id: node for node in fleet}
    for placement in placements:
        node = nodes[placement.node_id]
        nodes[node.id] = node.booked(placement.head.resources, by=placement.head.work)
    return list(nodes.values())


def placed(placements: list[Placement]) -> list[tuple[str, str]]:
    return [(placement.head.id, placement.node_id) for placement in placements]


@given(lines(), fleets(), lefts)
def test_plan_never_books_more_than_is_free_or_the_tenant_has_left(
    line: list[Head], fleet: list[Node], left: Left
) -> None:
    booked: dict[str, Resources] = defaultdict(Resources)
    for placement in plan(line, fleet, left):
        booked[placement.node_id] += placement.head.resources
        booked[placement.head.tenant] += placement.head.resources
    for node in fleet:
        assert booked[node.id].fits_in(node.free)
    for tenant, theirs in left.items():
        assert booked[tenant].fits_in(theirs)


@given(lines(), fleets(), lefts)
def test_plan_puts_nobody_beside_another_tenant_where_these_are_not_mixed(
    line: list[Head], fleet: list[Node], left: Left
) -> None:
    tenants = {node.id: {held.tenant for held in node.holds} for node in fleet}
    apart = {node.id for node in fleet if not node.allows_mixed_tenants}
    for placement in plan(line, fleet, left):
        there = tenants[placement.node_id]
        if placement.node_id in apart:
            assert there <= {placement.head.tenant}
        there.add(placement.head.tenant)


@given(lines(), fleets(), lefts)
def test_where_jobs_alone_keep_a_job_out_that_fits_an_empty_node_no_job_passes_it(
    line: list[Head], fleet: list[Node], left: Left
) -> None:
    """So the node empties, and nobody waits for ever behind a stream of another tenant's jobs."""
    jobs = [each for each in line if each.kind is OwnerKind.JOB]
    placements = plan(jobs, fleet, left)
    done = {placement.head for placement in placements}
    for waiting in set(jobs) - done:
        before = [each for each in done if each.order < waiting.order]
        taken = sum(
            (each.resources for each in before if each.tenant == waiting.tenant), Resources()
        )
        is_within = waiting.tenant not in left or (waiting.resources + taken).fits_in(
            left[waiting.tenant]
        )
        has_only_jobs = any(
            waiting.resources.fits_in(node.capacity)
            and all(held.kind is OwnerKind.JOB for held in node.holds)
            for node in fleet
        )
        if is_within and has_only_jobs:
            assert all(each.order < waiting.order for each in done)


@given(lines(), fleets(), lefts)
def test_plan_places_each_head_at_most_once_and_in_order(
    line: list[Head], fleet: list[Node], left: Left
) -> None:
    heads = [placement.head for placement in plan(line, fleet, left)]
    assert len({each.id for each in heads}) == len(heads)
    assert heads == sorted(heads, key=lambda each: each.order)


@given(lines(), fleets(), lefts)
def test_nobody_passes_an_earlier_one_of_its_kind_that_some_node_could_hold(
    line: list[Head], fleet: list[Node], left: Left
) -> None:
    placements = plan(line, fleet, left)
    done = {placement.head for placement in placements}
    for passed in set(line) - done:
        before = [each for each in done if each.order < passed.order]
        taken = sum(
            (each.resources for each in before if each.tenant == passed.tenant), Resources()
        )
        is_within = passed.tenant not in left or (passed.resources + taken).fits_in(
            left[passed.tenant]
        )
        if is_within and any(
            passed.resources.fits_in(node.capacity) and node.will_take(passed.tenant)
            for node in as_left_by(before_all(placements, passed), fleet)
        ):
            later = [each for each in done if each.kind is passed.kind]
            assert all(each.order < passed.order for each in later)


@given(lines(), fleets(), lefts)
def test_plan_does_not_depend_on_the_order_of_what_it_is_given(
    line: list[Head], fleet: list[Node], left: Left
) -> None:
    assert plan(line, fleet, left) == plan(list(reversed(line)), list(reversed(fleet)), left)


def test_larger_priority_goes_first_then_who_came_first() -> None:
    line = [
        head("late", cpu=1, seq=3),
        head("early", cpu=1, seq=1),
        head("urgent", cpu=1, seq=9, priority=50),
    ]
    assert [
        name for name, _ in placed(plan(line, [a_node(capacity=resources(cpu=8, memory=8))], {}))
    ] == [
        "urgent",
        "early",
        "late",
    ]


def test_a_head_that_does_not_fit_holds_the_line() -> None:
    line = [head("large", cpu=8, seq=1), head("small", cpu=1, seq=2)]
    busy = a_node(capacity=resources(cpu=8, memory=8), used=resources(cpu=1))
    assert plan(line, [busy], {}) == []


def test_a_head_that_no_node_could_ever_hold_does_not() -> None:
    line = [head("giant", cpu=99, seq=1), head("small", cpu=1, seq=2)]
    assert placed(plan(line, [a_node("a", capacity=resources(cpu=8, memory=8))], {})) == [
        ("small", "a")
    ]


def test_a_replica_that_waits_does_not_hold_up_jobs() -> None:
    line = [
        head("replica", cpu=8, seq=1, kind=OwnerKind.REPLICA),
        head("job", cpu=1, seq=2),
    ]
    busy = a_node("a", capacity=resources(cpu=8, memory=8), used=resources(cpu=1))
    assert placed(plan(line, [busy], {})) == [("job", "a")]


def test_small_heads_leave_the_empty_node_to_large_ones() -> None:
    empty = a_node("empty", capacity=resources(cpu=8, memory=8))
    half = a_node("half", capacity=resources(cpu=8, memory=8), used=resources(cpu=4))
    assert placed(plan([head("small", cpu=2)], [empty, half], {})) == [("small", "half")]


def a_tenants_node(name: str, *work: HeldWork) -> Node:
    """Return a node with room that takes one tenant's work at a time."""
    return a_node(
        name,
        capacity=resources(cpu=8, memory=8),
        used=resources(cpu=len(work), memory=len(work)),
        allows_mixed_tenants=False,
        holds=frozenset(work),
    )


def test_an_empty_node_is_the_first_tenants_for_the_rest_of_the_plan() -> None:
    line = [
        head("first", cpu=1, seq=1),
        head("other", cpu=1, seq=2, tenant=UMBRELLA),
        head("second", cpu=1, seq=3),
    ]
    assert placed(plan(line, [a_tenants_node("a")], {})) == [("first", "a")]
    fleet = [a_tenants_node("a"), a_tenants_node("b")]
    assert placed(plan(line, fleet, {})) == [("first", "a"), ("other", "b"), ("second", "a")]


def test_who_is_kept_out_by_another_tenants_jobs_holds_the_line_until_they_are_over() -> None:
    line = [head("kept out", cpu=1, seq=1, tenant=UMBRELLA), head("late", cpu=1, seq=2)]
    busy = a_tenants_node("a", HeldWork(ACME, OwnerKind.JOB))
    assert plan(line, [busy], {}) == []
    assert placed(plan(line, [a_tenants_node("a")], {})) == [("kept out", "a")]


def test_who_is_kept_out_by_another_tenants_replica_holds_up_nobody() -> None:
    line = [head("kept out", cpu=1, seq=1, tenant=UMBRELLA), head("late", cpu=1, seq=2)]
    serving = a_tenants_node("a", HeldWork(ACME, OwnerKind.REPLICA))
    assert placed(plan(line, [serving], {})) == [("late", "a")]


def test_a_replica_that_is_placed_first_keeps_another_tenants_job_out_and_holds_up_nobody() -> None:
    line = [
        head("replica", cpu=1, seq=1, kind=OwnerKind.REPLICA),
        head("kept out", cpu=1, seq=2, tenant=UMBRELLA),
        head("late", cpu=1, seq=3),
    ]
    assert placed(plan(line, [a_tenants_node("a")], {})) == [("replica", "a"), ("late", "a")]


def test_who_has_used_up_its_plan_lets_others_pass_and_its_own_that_fit() -> None:
    line = [
        head("large", cpu=3, seq=1),
        head("small", cpu=1, seq=2),
        head("other", cpu=8, seq=3, tenant=UMBRELLA),
        head("too much", cpu=2, seq=4),
    ]
    fleet = [a_node("a", capacity=resources(cpu=16, memory=16))]
    done = placed(plan(line, fleet, {ACME: resources(cpu=2, memory=9)}))
    assert done == [("small", "a"), ("other", "a")]
