"""How old an answer gets, and who waits for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from services.api_gateway.use_cases.recent import Recent
from services.chassis.errors import Unavailable
from tests.unit.api_gateway.edge import Clock

AGE_MAX_S = 3.0
"""An answer is asked for anew after two thirds of it."""


@dataclass
class Store:
    """Answers at once, unless it is told to wait."""

    answers: dict[str, str] = field(default_factory=lambda: {"a": "old"})
    asked: list[str] = field(default_factory=list)
    error: Unavailable | None = None
    is_answering: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.is_answering.set()

    async def ask(self, key: str) -> str | None:
        self.asked.append(key)
        answer = self.answers.get(key)
        await self.is_answering.wait()
        if self.error is not None:
            raise self.error
        return answer


def recent(store: Store, clock: Clock, *, kept_max: int = 100) -> Recent[str, str]:
    return Recent(
        store.ask,
        clock,
        name="store",
        age_max=timedelta(seconds=AGE_MAX_S),
        pause=timedelta(0),
        kept_max=kept_max,
    )


@asynccontextmanager
async def running(of: Recent[str, str]) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(of.run(stopping))
        yield
        stopping.set()


async def let_others_run() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_many_who_ask_at_once_ask_the_store_once() -> None:
    store, clock = Store(), Clock()
    of = recent(store, clock)
    assert await asyncio.gather(*(of("a") for _ in range(50))) == ["old"] * 50
    clock.elapsed_s = 1.9
    assert await of("a") == "old"
    assert store.asked == ["a"]


async def test_an_answer_in_the_later_part_of_its_life_is_given_and_asked_for_anew() -> None:
    store, clock = Store(), Clock()
    of = recent(store, clock)
    await of("a")
    store.answers["a"] = "new"
    store.is_answering.clear()
    clock.elapsed_s = 2.0

    async with running(of):
        assert await asyncio.gather(*(of("a") for _ in range(50))) == ["old"] * 50
        await let_others_run()
        store.is_answering.set()
        await let_others_run()

    assert store.asked == ["a", "a"]
    assert of.peek("a") == "new"
    clock.elapsed_s = 4.9  # as old as its question
    assert of.peek("a") == "new"
    clock.elapsed_s = 5.0
    assert of.peek("a") is None


async def test_an_answer_that_is_too_old_is_waited_for() -> None:
    store, clock = Store(), Clock()
    of = recent(store, clock)
    await of("a")
    store.answers["a"] = "new"
    clock.elapsed_s = AGE_MAX_S
    assert await of("a") == "new"


async def test_a_store_that_is_away_is_heard_of_when_the_answer_is_too_old() -> None:
    store, clock = Store(), Clock()
    of = recent(store, clock)
    await of("a")
    store.error = Unavailable("database")
    clock.elapsed_s = 2.0
    async with running(of):
        for _ in range(2):
            assert await of("a") == "old"
            await let_others_run()
    assert len(store.asked) == 3

    clock.elapsed_s = AGE_MAX_S
    with pytest.raises(Unavailable):
        await of("a")
    store.error = None
    assert await of("a") == "old"


async def test_an_answer_that_takes_longer_than_it_may_be_old_is_none() -> None:
    store = Store()
    store.is_answering.clear()
    of = Recent(store.ask, Clock(), name="store", age_max=timedelta(milliseconds=300))
    with pytest.raises(Unavailable, match="store"):
        await of("a")
    store.is_answering.set()
    assert await of("a") == "old"


async def test_what_was_put_in_outlives_a_question_that_was_under_way() -> None:
    store, clock = Store(), Clock()
    of = recent(store, clock)
    store.is_answering.clear()
    asking = asyncio.create_task(of("a"))
    await let_others_run()
    of.put("a", "put")
    store.is_answering.set()
    assert await asking == "put"
    assert await of("a") == "put"


async def test_what_the_store_does_not_have_is_kept_and_drives_out_nothing() -> None:
    store = Store()
    of = recent(store, Clock(), kept_max=5)
    await of("a")
    for number in range(20):
        assert await of(f"guess {number}") is None
        assert await of(f"guess {number}") is None
    assert await of("a") == "old"
    assert len(store.asked) == 21


async def test_without_anybody_who_asks_anew_answers_just_grow_too_old() -> None:
    store, clock = Store(), Clock()
    of = recent(store, clock)
    await of("a")
    clock.elapsed_s = 2.0
    assert await of("a") == "old"
    clock.elapsed_s = AGE_MAX_S
    await of("a")
    assert store.asked == ["a", "a"]


async def test_the_oldest_goes_when_too_many_are_kept() -> None:
    store = Store(answers={name: name for name in "abc"})
    of = recent(store, Clock(), kept_max=2)
    for name in "abc":
        await of(name)
    assert [of.peek(name) for name in "abc"] == [None, "b", "c"]
