"""The checker of a line's order: a good run passes, and each bad one is found."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.bench.queue_order import (
    Admission,
    Amounts,
    PassedOver,
    Standing,
    Verdict,
    key_of,
    verdict_on,
)

NODE = {"node-1": (4_000, 0, 0)}
NO_FAULT = Verdict([], [])


def a_job(
    seq: int,
    *,
    tenant: str = "acme",
    priority: int = 0,
    millicores: int = 1_000,
    run_max_s: float = 3_600.0,
) -> Standing:
    return Standing(f"job_{seq}", tenant, priority, seq, (millicores, 0, 0), run_max_s)


def placed(*jobs: Standing, node_id: str = "node-1") -> Sequence[Admission]:
    return [Admission(job.id, node_id) for job in jobs]


def test_admissions_in_order_are_no_fault() -> None:
    first, second, third = a_job(2, priority=9), a_job(1), a_job(3)

    assert verdict_on(placed(first, second, third), [second, first, third], NODE) == NO_FAULT


def test_a_larger_priority_is_not_passed() -> None:
    low, high = a_job(1, tenant="beta"), a_job(2, priority=1)

    verdict = verdict_on(placed(low, high), [low, high], NODE)

    assert verdict == Verdict([PassedOver(low, high)], [])


def test_who_came_first_is_not_passed_by_its_own_tenant() -> None:
    first, second = a_job(1), a_job(2)

    assert verdict_on(placed(second, first), [first, second], NODE) == Verdict(
        [PassedOver(second, first)], []
    )


def test_who_is_never_admitted_is_passed_by_each_later_one() -> None:
    first, second, third = a_job(1), a_job(2), a_job(3)

    verdict = verdict_on(placed(second, third), [first, second, third], NODE)

    assert verdict.inversions == [PassedOver(second, first), PassedOver(third, first)]


def test_who_has_no_room_is_passed_by_what_ends_sooner() -> None:
    large, long, short = a_job(1, millicores=8_000), a_job(2), a_job(3, run_max_s=60.0)
    nodes: dict[str, Amounts] = {"node-1": (8_000, 0, 0)}
    running = a_job(0, millicores=4_000)

    line = [running, large, long, short]

    assert verdict_on(placed(running, short), line, nodes) == NO_FAULT


def test_who_has_room_is_passed_by_nothing_that_is_no_shorter() -> None:
    large, long, equal = a_job(1, millicores=8_000), a_job(2), a_job(3)
    nodes: dict[str, Amounts] = {"node-1": (8_000, 0, 0)}
    running = a_job(0, millicores=4_000)

    verdict = verdict_on(placed(running, equal), [running, large, long, equal], nodes)

    assert verdict.inversions == [PassedOver(equal, long)]


def test_who_could_use_no_node_holds_up_nobody() -> None:
    too_large, long, short = a_job(1, millicores=64_000), a_job(2), a_job(3, run_max_s=60.0)

    verdict = verdict_on(placed(short), [too_large, long, short], NODE)

    assert verdict.inversions == [PassedOver(short, long)]


def test_a_node_that_nobody_waits_for_may_be_taken_meanwhile() -> None:
    nodes: dict[str, Amounts] = {"node-1": (8_000, 0, 0), "node-2": (1_000, 0, 0)}
    running = a_job(0, millicores=4_000)
    large, middling, small = a_job(1, millicores=8_000), a_job(2, millicores=2_000), a_job(3)
    admissions = [*placed(running), *placed(small, node_id="node-2")]

    assert verdict_on(admissions, [running, large, middling, small], nodes) == NO_FAULT


def test_who_is_beyond_its_quota_is_passed() -> None:
    first, second = a_job(1), a_job(2, tenant="beta")
    quotas: dict[str, Amounts] = {"acme": (500, 0, 0)}

    assert verdict_on(placed(second), [first, second], NODE, quotas=quotas) == NO_FAULT


def test_a_tenant_that_has_more_does_not_go_first() -> None:
    rich = [a_job(seq) for seq in (1, 2, 3)]
    poor = a_job(4, tenant="beta")

    verdict = verdict_on(placed(*rich, poor), [*rich, poor], NODE)

    # After its first it has a job's share more, which is tolerated; after its second it is not.
    assert verdict == Verdict([], [PassedOver(rich[2], poor)])


def test_tenants_that_take_turns_are_treated_alike() -> None:
    rich = [a_job(seq) for seq in (1, 2)]
    poor = [a_job(seq, tenant="beta") for seq in (3, 4)]

    assert verdict_on(placed(rich[0], poor[0], rich[1], poor[1]), [*rich, *poor], NODE) == NO_FAULT


def test_the_dominant_resource_counts() -> None:
    nodes: dict[str, Amounts] = {"node-1": (100_000, 100, 0)}
    cores = [a_job(seq) for seq in (1, 3, 5)]
    memory = [replace(a_job(seq, tenant="beta"), amounts=(1_000, 20, 0)) for seq in (2, 4, 6)]

    verdict = verdict_on(placed(*memory, cores[0]), [*cores, *memory], nodes)

    assert verdict.unfair == [PassedOver(memory[2], cores[0])]


def test_the_key_is_priority_then_share_then_place() -> None:
    shares = {"acme": 0.5, "beta": 0.25}
    jobs = [a_job(1), a_job(2), a_job(4, tenant="beta"), a_job(5, priority=1)]

    order = sorted(jobs, key=lambda job: key_of(job, shares))

    assert [job.queue_seq for job in order] == [5, 4, 1, 2]


def test_a_job_is_admitted_once() -> None:
    first = a_job(1)

    with pytest.raises(AssertionError, match="job_1 does not stand in line"):
        verdict_on(placed(first, first), [first], NODE)


def test_a_node_is_not_overbooked() -> None:
    large = a_job(1, millicores=5_000)

    with pytest.raises(AssertionError, match="node-1 has no room for job_1"):
        verdict_on(placed(large), [large], NODE)
