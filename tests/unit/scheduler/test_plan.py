"""What any plan must hold, for any line and any nodes."""

from collections import defaultdict
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.fleet.node import Node
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


@st.composite
def fleets(draw: st.DrawFn) -> list[Node]:
    return [
        Node(NodeId(f"node-{n}"), draw(amounts), draw(amounts), NOW, "process", None)
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
    done = {placement.head for placement in plan(line, fleet, left)}
    for passed in set(line) - done:
        before = [each for each in done if each.order < passed.order]
        taken = sum(
            (each.resources for each in before if each.tenant == passed.tenant), Resources()
        )
        is_within = passed.tenant not in left or (passed.resources + taken).fits_in(
            left[passed.tenant]
        )
        if is_within and any(passed.resources.fits_in(node.capacity) for node in fleet):
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
