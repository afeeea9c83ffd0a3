"""What is over goes, strays are stopped, the rest stays."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from services.chassis.errors import Unavailable
from services.scheduler.domain.attempts.attempt import AttemptState
from services.scheduler.domain.attempts.runtime import ContainerPhase as P
from services.scheduler.domain.attempts.runtime import ContainerStatus
from services.scheduler.use_cases.attempts.clean_up_containers import CleanUpContainers
from tests.unit.scheduler_runner.bench import Bench
from tests.unit.scheduler_runner.builders import NOW, some_work


def over(bench: Bench, *, ended_at: datetime = NOW) -> None:
    """Let the attempt be recorded as ended."""
    attempt = bench.store.given(some_work()).attempt
    bench.store.rows[attempt.id] = replace(attempt, state=AttemptState.EXITED, ended_at=ended_at)


@pytest.mark.parametrize("phase", [P.EXITED, P.LOST])
async def test_container_with_output_goes_after_an_hour(bench: Bench, phase: P) -> None:
    over(bench)
    bench.runtime.is_(phase)
    bench.clock.advance(timedelta(hours=1))
    assert await bench.clean_up() == 0

    bench.clock.advance(timedelta(seconds=1))
    assert await bench.clean_up() == 1
    assert bench.runtime.calls == ["remove"]


@pytest.mark.parametrize("phase", [P.CREATED, P.TOMBSTONE, P.ABSENT])
async def test_what_never_ran_goes_at_once_when_its_attempt_is_over(bench: Bench, phase: P) -> None:
    over(bench)
    bench.runtime.is_(phase)

    assert await bench.clean_up() == 1
    assert bench.runtime.calls == ["remove"]


async def test_container_that_ran_since_it_was_listed_keeps_its_output(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    over(bench)
    bench.runtime.exited()

    async def listed_before(_: object) -> list[ContainerStatus]:
        return [ContainerStatus("modelyard-att_1", P.CREATED)]

    monkeypatch.setattr(bench.runtime, "list", listed_before)

    assert await bench.clean_up() == 0
    assert bench.runtime.calls == []


@pytest.mark.parametrize("phase", [P.RUNNING, P.CREATED, P.ABSENT, P.EXITED])
async def test_container_of_an_open_attempt_stays(bench: Bench, phase: P) -> None:
    bench.store.given(some_work())
    bench.clock.advance(timedelta(days=1))
    bench.runtime.is_(phase)

    assert await bench.clean_up() == 0
    assert bench.runtime.calls == []


async def test_container_that_runs_on_is_stopped_and_keeps_its_output(bench: Bench) -> None:
    over(bench)
    bench.runtime.is_(P.RUNNING)

    assert await bench.clean_up() == 1
    assert await bench.clean_up() == 0
    assert bench.runtime.calls == ["stop 1"]


@pytest.mark.parametrize(("count", "grace"), [(2, "1"), (3, "0.5"), (8, "0.25")])
async def test_however_many_are_stopped_all_take_one_grace_and_each_has_a_part_of_it(
    bench: Bench, count: int, grace: str
) -> None:
    assert (bench.clean_up.stray_grace, bench.clean_up.together_max) == (timedelta(seconds=1), 2)
    for number in range(count):
        bench.runtime.is_(P.RUNNING, f"modelyard-att_{number}")
    bench.runtime.is_(P.TOMBSTONE, "modelyard-att_tombstone")

    await bench.clean_up()

    assert sorted(bench.runtime.calls) == ["remove", *[f"stop {grace}"] * count]


async def test_running_container_that_nobody_knows_is_stopped_then_deleted(
    bench: Bench,
) -> None:
    bench.runtime.is_(P.RUNNING)

    assert await bench.clean_up() == 1
    assert await bench.clean_up() == 1
    assert bench.runtime.calls == ["stop 1", "remove"]


async def test_container_that_nobody_knows_is_left_alone_while_it_is_young(bench: Bench) -> None:
    bench.runtime.is_(P.CREATED, created_at=NOW)
    bench.clock.advance(timedelta(seconds=29))
    assert await bench.clean_up() == 0

    bench.clock.advance(timedelta(seconds=1))
    assert await bench.clean_up() == 1


async def test_nothing_is_touched_without_the_node_s_lease(bench: Bench) -> None:
    bench.runtime.is_(P.RUNNING)
    bench.node_lease.held = None

    assert await bench.clean_up() == 0
    assert bench.runtime.calls == []


async def test_one_that_can_not_be_deleted_keeps_none_of_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []

    async def remove(name: str) -> None:
        if name != "modelyard-att_2":
            raise Unavailable("the node")
        removed.append(name)

    monkeypatch.setattr(bench.runtime, "remove", remove)
    for number in (1, 2, 3):
        bench.runtime.is_(P.TOMBSTONE, f"modelyard-att_{number}")

    with pytest.RaisesGroup(Unavailable, Unavailable):
        await bench.clean_up()

    assert removed == ["modelyard-att_2"]


async def test_a_batch_that_can_not_be_asked_for_keeps_none_of_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):  # a batch has three
        bench.runtime.is_(P.TOMBSTONE, f"modelyard-att_{number}")
    due, is_down = CleanUpContainers._due, iter([True, False])

    async def asked(clean_up: CleanUpContainers, batch: Sequence[ContainerStatus]) -> object:
        if next(is_down):
            raise Unavailable("database")
        return await due(clean_up, batch)

    monkeypatch.setattr(CleanUpContainers, "_due", asked)

    with pytest.RaisesGroup(Unavailable):
        await bench.clean_up()

    assert bench.runtime.calls == ["remove"]


async def test_many_are_asked_for_in_batches_and_dealt_with_a_few_at_a_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, most = 0, 0

    async def remove(_: str) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    monkeypatch.setattr(bench.runtime, "remove", remove)
    for number in range(7):
        bench.runtime.is_(P.TOMBSTONE, f"modelyard-att_{number}")

    assert await bench.clean_up() == 7
    assert (bench.store.queries, most) == (3, 2)
