"""The simulation's loop: virtual time, an order from a seed, processes that freeze and die."""

import asyncio
from datetime import timedelta
from random import Random

import pytest

from tests.support.sim_loop import (
    Deadlock,
    SimLoop,
    SimProcess,
    current_process,
    outside,
    run_simulated,
)


async def _order(task_count: int) -> list[int]:
    order: list[int] = []

    async def walk(number: int) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            order.append(number)

    async with asyncio.TaskGroup() as tasks:
        for number in range(task_count):
            tasks.create_task(walk(number))
    return order


def _loop() -> SimLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    return loop


@pytest.mark.parametrize("seed", range(5))
def test_one_seed_is_one_order(seed: int) -> None:
    orders = [run_simulated(_order(10), Random(seed)) for _ in range(3)]
    assert orders[0] == orders[1] == orders[2]


def test_another_seed_is_another_order() -> None:
    assert len({tuple(run_simulated(_order(10), Random(seed))) for seed in range(20)}) == 20


def test_time_leaps_to_the_next_timer() -> None:
    async def sleep_long() -> float:
        await asyncio.sleep(timedelta(days=30).total_seconds())  # tidy: allow sleep because virtual
        return asyncio.get_running_loop().time()

    assert run_simulated(sleep_long(), Random(0)) == timedelta(days=30).total_seconds()


def test_timers_go_off_in_their_order() -> None:
    async def ring() -> list[int]:
        rung: list[int] = []
        loop = asyncio.get_running_loop()
        for due in (3, 1, 2):
            loop.call_later(due, rung.append, due)
        await asyncio.sleep(4)  # tidy: allow sleep because virtual
        return rung

    assert run_simulated(ring(), Random(0)) == [1, 2, 3]


def test_a_deadlock_is_told() -> None:
    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run_simulated(wait_for_ever(), Random(0))


def test_a_timeout_is_virtual_too() -> None:
    async def give_up() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3_600):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_simulated(give_up(), Random(0)) == 3_600


async def _count(seen: list[float]) -> None:
    while True:
        await asyncio.sleep(1)  # tidy: allow sleep because virtual
        seen.append(asyncio.get_running_loop().time())


def test_a_frozen_process_stands_still_until_it_is_thawed() -> None:
    async def freeze() -> list[float]:
        seen: list[float] = []
        process = SimProcess("p", _loop())
        process.spawn(_count(seen))
        await asyncio.sleep(2.5)  # tidy: allow sleep because virtual
        process.freeze()
        await asyncio.sleep(10)  # tidy: allow sleep because virtual
        process.thaw()
        await asyncio.sleep(2)  # tidy: allow sleep because virtual
        process.kill()
        await process.gone()
        return seen

    assert run_simulated(freeze(), Random(0)) == [1, 2, 12.5, 13.5]


def test_a_killed_process_is_gone_with_what_it_has_begun() -> None:
    async def kill() -> list[float]:
        seen: list[float] = []

        async def parent() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_count(seen))

        process = SimProcess("p", _loop())
        process.spawn(parent())
        await asyncio.sleep(1.5)  # tidy: allow sleep because virtual
        process.freeze()
        process.kill()
        await process.gone()
        await asyncio.sleep(5)  # tidy: allow sleep because virtual
        return seen

    assert run_simulated(kill(), Random(0)) == [1]


def test_code_knows_its_process_and_can_leave_it() -> None:
    async def ask() -> None:
        async def inner() -> tuple[SimProcess | None, SimProcess | None]:
            return current_process(), outside(current_process)

        process = SimProcess("p", _loop())
        assert await process.spawn(inner()) == (process, None)
        assert current_process() is None

    run_simulated(ask(), Random(0))


def test_sets_of_tasks_are_walked_alike_in_every_run() -> None:
    async def walk() -> list[str]:
        async def nothing() -> None:
            await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            tasks = {group.create_task(nothing(), name=f"t{number}") for number in range(50)}
            return [task.get_name() for task in tasks]

    assert run_simulated(walk(), Random(1)) == run_simulated(walk(), Random(1))
