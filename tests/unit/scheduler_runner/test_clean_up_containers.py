"""Old containers go, strays are stopped, the rest stays."""

from dataclasses import replace
from datetime import timedelta

import pytest

from services.chassis.errors import Unavailable
from services.scheduler.domain.attempts.attempt import AttemptState
from services.scheduler.domain.attempts.runtime import ContainerPhase as P
from tests.unit.scheduler_runner.bench import Bench
from tests.unit.scheduler_runner.builders import NOW, some_work


async def test_ended_container_goes_after_an_hour(bench: Bench) -> None:
    attempt = bench.store.given(some_work()).attempt
    bench.store.rows[attempt.id] = replace(attempt, state=AttemptState.EXITED, ended_at=NOW)
    bench.runtime.exited()
    bench.clock.advance(timedelta(hours=1))
    assert await bench.clean_up() == 0

    bench.clock.advance(timedelta(seconds=1))
    assert await bench.clean_up() == 1
    assert bench.runtime.calls == ["remove"]


async def test_container_of_an_open_attempt_stays(bench: Bench) -> None:
    bench.store.given(some_work())
    bench.clock.advance(timedelta(days=1))
    for phase in (P.RUNNING, P.CREATED):
        bench.runtime.is_(phase)
        assert await bench.clean_up() == 0


async def test_running_container_that_nobody_knows_is_stopped_then_deleted(
    bench: Bench,
) -> None:
    bench.runtime.is_(P.RUNNING)

    assert await bench.clean_up() == 1
    assert await bench.clean_up() == 1
    assert bench.runtime.calls == ["stop 1", "remove"]


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
        if name == "modelyard-att_1":
            raise Unavailable("the node")
        removed.append(name)

    monkeypatch.setattr(bench.runtime, "remove", remove)
    for name in ("modelyard-att_1", "modelyard-att_2"):
        bench.runtime.is_(P.TOMBSTONE, name)

    with pytest.raises(Unavailable):
        await bench.clean_up()

    assert removed == ["modelyard-att_2"]
