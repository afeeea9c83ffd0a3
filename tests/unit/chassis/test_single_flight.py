"""Many who want the same at once."""

import asyncio

import pytest

from services.chassis.errors import Unavailable
from services.chassis.single_flight import SingleFlight


class Source:
    """Answers when it is told to, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked_count = 0
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask(self, key: str) -> str:
        self.asked_count += 1
        return key + await self.answer


async def begun(*tasks: asyncio.Task[str]) -> None:
    """Let each task go as far as it can."""
    for _ in range(3 * len(tasks)):
        await asyncio.sleep(0)


async def test_one_asks_and_all_are_answered() -> None:
    source = Source()
    ask = SingleFlight(source.ask)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask("a")) for _ in range(3)]
        await begun(*tasks)
        source.answer.set_result("!")

    assert [task.result() for task in tasks] == ["a!"] * 3
    assert source.asked_count == 1
    assert await ask("b") == "b!"


async def test_all_share_a_failure_and_later_ones_ask_again() -> None:
    source = Source()
    ask = SingleFlight(source.ask)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_failed(ask)) for _ in range(3)]
        await begun(*tasks)
        source.answer.set_exception(Unavailable("source"))

    assert [task.result() for task in tasks] == ["UNAVAILABLE"] * 3
    assert source.asked_count == 1
    with pytest.raises(Unavailable):
        await ask("a")
    assert source.asked_count == 2


async def test_another_one_asks_when_who_asked_goes_away() -> None:
    source = Source()
    ask = SingleFlight(source.ask)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(ask("a"))
        await begun(first)
        second = group.create_task(ask("a"))
        await begun(second)
        source.answer, away = asyncio.get_running_loop().create_future(), source.answer
        first.cancel()
        await begun(first, second)
        source.answer.set_result("!")

    assert away.cancelled()
    assert second.result() == "a!"
    assert source.asked_count == 2


async def _failed(ask: SingleFlight[str, str]) -> str:
    try:
        return await ask("a")
    except Unavailable as error:
        return error.code
