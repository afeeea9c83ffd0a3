"""What tenants have had, and that turns by it are fair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.line import Head, Line, Shape
from services.scheduler.domain.scheduling.place import Standing
from services.scheduler.domain.scheduling.plan import Decisions, Holding, Snapshot, plan
from services.scheduler.domain.scheduling.shares import Average, Averages, Shares
from tests.unit.scheduler.builders import ACME, NOW, UMBRELLA, a_node, resources

DAY = timedelta(days=1)


def jobs(tenant: TenantId, needs: Resources, *, count: int = 20, first: int = 0) -> list[Head]:
    shape = Shape(OwnerKind.JOB, tenant, 0, needs, run_max=timedelta(hours=1))
    return [Head(f"{tenant}-{seq}", seq, shape) for seq in range(first, first + count)]


def planned(
    line: Sequence[Head],
    node: Node,
    *,
    held: Mapping[TenantId, Resources] | None = None,
    averages: Mapping[TenantId, Average] | None = None,
    holdings: Sequence[Holding] = (),
) -> Decisions:
    shares = Shares(node.capacity, held or {}, averages or {})
    seen = Snapshot(Line.of(line), [node], shares, left={}, heads_max=50, holdings=holdings)
    return plan(seen)


def counts(decisions: Decisions) -> dict[TenantId, int]:
    tenants = [placement.head.tenant for placement in decisions.placements]
    return {tenant: tenants.count(tenant) for tenant in tenants}


def test_the_example_of_dominant_resource_fairness() -> None:
    """Ghodsi et al., NSDI'11, §4.1: 9 CPU and 18 GB; 1 and 4 a task against 3 and 1."""
    node = a_node(capacity=resources(cpu=9, memory=18))
    memory_heavy, cpu_heavy = resources(cpu=1, memory=4), resources(cpu=3, memory=1)
    line = [*jobs(ACME, memory_heavy), *jobs(UMBRELLA, cpu_heavy, first=20)]
    decisions = planned(line, node)
    assert counts(decisions) == {ACME: 3, UMBRELLA: 2}
    shares = Shares(node.capacity, {ACME: memory_heavy * 3, UMBRELLA: cpu_heavy * 2})
    assert shares.of(ACME) == shares.of(UMBRELLA) == pytest.approx(2 / 3)


def test_who_came_first_with_many_does_not_take_all() -> None:
    node = a_node(capacity=resources(cpu=10, memory=10))
    line = [*jobs(ACME, resources()), *jobs(UMBRELLA, resources(), first=20)]
    assert counts(planned(line, node)) == {ACME: 5, UMBRELLA: 5}


def test_who_holds_much_waits_until_others_hold_as_much() -> None:
    node = a_node(capacity=resources(cpu=10, memory=10), used=resources(cpu=4, memory=4))
    line = [*jobs(ACME, resources()), *jobs(UMBRELLA, resources(), first=20)]
    held = {ACME: resources(cpu=4, memory=4)}
    assert counts(planned(line, node, held=held)) == {UMBRELLA: 5, ACME: 1}


def test_who_held_much_lately_waits_though_it_holds_nothing() -> None:
    node = a_node(capacity=resources(cpu=10, memory=10))
    line = [*jobs(ACME, resources()), *jobs(UMBRELLA, resources(), first=20)]
    averages = {ACME: Average(cpu_millicores=6_000)}
    assert counts(planned(line, node, averages=averages)) == {UMBRELLA: 8, ACME: 2}


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=4),
    st.integers(4, 24),
)
def test_whoever_gets_something_has_least_of_all_for_whom_there_is_room(
    needs: list[tuple[int, int]], size: int
) -> None:
    node = a_node(capacity=resources(cpu=size, memory=size))
    theirs = {
        TenantId(f"tenant-{place}"): jobs(
            TenantId(f"tenant-{place}"),
            resources(cpu=cpu, memory=memory),
            first=40 * place,
            count=40,
        )
        for place, (cpu, memory) in enumerate(needs)
    }
    decisions = planned([head for heads in theirs.values() for head in heads], node)
    turns = {shape.tenant: turn for shape, turn in decisions.refused.items()}
    given = dict.fromkeys(theirs, Resources())
    shares = Shares(node.capacity)
    for place, placement in enumerate(decisions.placements):
        share = shares.of(placement.head.tenant, more=given[placement.head.tenant])
        for other, had in given.items():
            assert turns[other] <= place or share <= shares.of(other, more=had)
        given[placement.head.tenant] += placement.head.resources


@dataclass
class Yard:
    """A node for which tenants compete that always have more jobs than fit, for hours and hours."""

    needs: Mapping[TenantId, Resources]
    longest: Mapping[TenantId, timedelta]
    """Nobody's runs for longer than that, all may for an hour."""
    averages: Averages
    node: Node = field(default_factory=lambda: a_node(capacity=resources(cpu=24, memory=24)))
    running: list[tuple[timedelta, TenantId, timedelta]] = field(default_factory=list)
    """When each ends, whose it is and when its limit ends it."""
    now: timedelta = timedelta(0)

    @property
    def held(self) -> dict[TenantId, Resources]:
        return {
            tenant: sum((need for _, whose, _ in self.running if whose == tenant), Resources())
            for tenant, need in self.needs.items()
        }

    def shares_over(self, length: timedelta, chance: Random) -> dict[TenantId, float]:
        """Return what share each has on average, while each end of a job is followed by a cycle."""
        began, had = self.now, dict.fromkeys(self.needs, 0.0)
        while self.now < began + length:
            self._cycle(chance)
            end = min(self.running)
            self.running.remove(end)
            held = {end[1]: self.needs[end[1]]}
            shares = Shares(self.node.capacity, self.held)
            for tenant in had:
                share = shares.of(tenant, more=held.get(tenant, Resources()))
                had[tenant] += share * ((end[0] - self.now) / DAY)
            self.now = end[0]
        return {tenant: share / ((self.now - began) / DAY) for tenant, share in had.items()}

    def _cycle(self, chance: Random) -> None:
        held = self.held
        self._look(held)
        decisions = planned(
            [
                head
                for place, (tenant, need) in enumerate(self.needs.items())
                for head in jobs(tenant, need, first=20 * place)
            ],
            replace(self.node, used=sum(held.values(), Resources())),
            held=held,
            averages=self.averages.by_tenant,
            holdings=[
                Holding(self.node.id, tenant, self.needs[tenant], ends_in=limit - self.now)
                for _, tenant, limit in self.running
            ],
        )
        for placed in decisions.placements:
            tenant, run_max = placed.head.tenant, placed.head.run_max
            assert run_max is not None
            length = self.longest[tenant] * chance.uniform(0.1, 1.0)
            self.running.append((self.now + length, tenant, self.now + run_max))
        self._look(self.held)

    def _look(self, held: Mapping[TenantId, Resources]) -> None:
        self.averages = self.averages.after(
            held, at=NOW + self.now, half_life=timedelta(minutes=30), gone=()
        )


@given(
    st.lists(
        st.tuples(st.integers(2, 4), st.integers(2, 4), st.sampled_from([20, 40, 60])),
        min_size=2,
        max_size=3,
    ),
    st.integers(0, 999),
)
@settings(max_examples=15)
def test_shares_of_those_who_always_wait_become_equal_but_for_a_job(
    theirs: list[tuple[int, int, int]], seed: int
) -> None:
    """Whatever size their jobs have and however long these run; who has had all so far is last."""
    names = [TenantId(f"tenant-{place}") for place in range(len(theirs))]
    needs = {
        name: resources(cpu=cpu, memory=memory)
        for name, (cpu, memory, _) in zip(names, theirs, strict=True)
    }
    longest = {
        name: timedelta(minutes=minutes) for name, (*_, minutes) in zip(names, theirs, strict=True)
    }
    head_start = Averages({names[0]: Average(cpu_millicores=24_000)}, at=NOW)
    yard, chance = Yard(needs, longest, head_start), Random(seed)
    at_first = yard.shares_over(timedelta(minutes=10), chance)
    assert at_first[names[0]] == min(at_first.values())
    yard.shares_over(timedelta(hours=5), chance)
    had = yard.shares_over(timedelta(hours=10), chance)
    one_job = max(Shares(yard.node.capacity, needs).of(name) for name in names)
    assert max(had.values()) - min(had.values()) <= one_job


def test_an_average_goes_half_the_way_in_a_half_life() -> None:
    held = {ACME: resources(cpu=8)}
    averages = Averages().after(held, at=NOW, half_life=DAY, gone=())
    assert averages.by_tenant == {ACME: Average()}
    for passed, cpu in ((1, 4_000), (2, 6_000), (3, 7_000)):
        averages = averages.after(held, at=NOW + passed * DAY, half_life=DAY, gone=())
        assert averages.by_tenant[ACME].cpu_millicores == pytest.approx(cpu)
    averages = averages.after({}, at=NOW + 4 * DAY, half_life=DAY, gone=())
    assert averages.by_tenant[ACME].cpu_millicores == pytest.approx(3_500)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=6), st.integers(1, 9))
def test_an_average_does_not_depend_on_how_often_somebody_looks(looks: list[int], cpu: int) -> None:
    held = {ACME: resources(cpu=cpu)}
    often = once = Averages(at=NOW)
    at = NOW
    for hours in looks:
        at += timedelta(hours=hours)
        often = often.after(held, at=at, half_life=DAY, gone=())
    once = once.after(held, at=at, half_life=DAY, gone=())
    assert often.by_tenant[ACME].cpu_millicores == pytest.approx(
        once.by_tenant[ACME].cpu_millicores
    )


def test_an_average_grows_by_little_steps_too() -> None:
    held = {ACME: resources(cpu=1)}
    averages, at = Averages(at=NOW), NOW
    for _ in range(3_600):
        at += timedelta(seconds=1)
        averages = averages.after(held, at=at, half_life=DAY, gone=())
    once = Averages(at=NOW).after(held, at=at, half_life=DAY, gone=())
    assert averages.by_tenant[ACME].cpu_millicores == pytest.approx(
        once.by_tenant[ACME].cpu_millicores
    )


def test_a_clock_that_is_behind_the_last_leaders_moves_nothing() -> None:
    averages = Averages({ACME: Average(cpu_millicores=4_000)}, at=NOW)
    later = averages.after({}, at=NOW - DAY, half_life=DAY, gone=())
    assert later == averages


def test_who_is_gone_and_what_has_faded_is_not_kept() -> None:
    little, much = Average(cpu_millicores=1.5), Average(memory_bytes=2.0**40)
    averages = Averages({ACME: little, UMBRELLA: much}, at=NOW)
    at = NOW + DAY
    assert averages.after({}, at=at, half_life=DAY, gone=()).by_tenant.keys() == {UMBRELLA}
    gone = averages.after({UMBRELLA: resources()}, at=at, half_life=DAY, gone=[UMBRELLA])
    assert gone.by_tenant == {}


def test_what_nobody_has_makes_no_share() -> None:
    assert Shares(Resources(), {ACME: resources(gpus=1)}).of(ACME) == 0


@pytest.mark.parametrize(
    ("own", "theirs", "before"),
    [(0, 9, 0), (3, 9, 6), (3, 2, 5), (9, 0, 9)],
    ids=["its turn", "they take turns", "they are fewer", "alone"],
)
def test_a_place_counts_others_as_far_as_they_take_turns(
    own: int, theirs: int, before: int
) -> None:
    shares = Shares(resources(cpu=100, memory=100))
    standing = Standing(own_count=own, others={UMBRELLA: theirs})
    assert standing.jobs_before(ACME, resources(), shares) == before


def test_a_place_behind_larger_priorities_and_behind_who_has_had_less() -> None:
    shares = Shares(resources(cpu=100, memory=100), held={ACME: resources(cpu=5)})
    standing = Standing(above_count=7, own_count=1, others={UMBRELLA: 90})
    assert standing.jobs_before(ACME, resources(), shares) == 7 + 1 + 6


def test_who_asks_for_nothing_that_counts_stands_behind_all_who_had_less() -> None:
    shares = Shares(resources(cpu=100), held={ACME: resources(cpu=5)})
    standing = Standing(others={UMBRELLA: 4})
    assert standing.jobs_before(ACME, Resources(), shares) == 4
