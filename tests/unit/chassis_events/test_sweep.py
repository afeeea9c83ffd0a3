"""When an owner's list is read, and what becomes of its entries."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from services.chassis.errors import InvalidArgument, Unavailable
from services.chassis.events.consumer import Backoff
from services.chassis.events.sweep import ListPage, Sweep
from tests.support.eventually import eventually

HOUR = timedelta(hours=1)
BACKOFF = Backoff(timedelta(seconds=1), timedelta(seconds=4), chance=lambda: 1.0)


class Owner:
    """Has a list of numbers in pages of two; away for the first calls."""

    def __init__(self, numbers: Sequence[int], *, away_count: int = 0) -> None:
        self.numbers = numbers
        self.away_count = away_count

    async def page(self, token: str) -> ListPage[int]:
        if self.away_count:
            self.away_count -= 1
            raise Unavailable("owner")
        first = int(token or 0)
        end = first + 2
        return ListPage(self.numbers[first:end], str(end) if end < len(self.numbers) else "")


class Reader:
    """Collects entries; can't apply 13."""

    def __init__(self, owner: Owner) -> None:
        self.seen: list[int] = []
        self.done_count = 0
        self.sweep = Sweep(
            owner.page,
            self.apply,
            what="numbers",
            interval=HOUR,
            on_done=self.done,
            backoff=BACKOFF,
        )

    def apply(self, number: int) -> None:
        if number == 13:
            raise InvalidArgument("number", "brings bad luck")
        self.seen.append(number)

    def done(self) -> None:
        self.done_count += 1


async def test_all_pages_are_read_and_again_after_the_interval() -> None:
    reader = Reader(Owner([1, 2, 3, 4, 5]))
    assert await reader.sweep.turn() == HOUR.total_seconds()
    assert (reader.seen, reader.done_count, reader.sweep.is_done) == ([1, 2, 3, 4, 5], 1, True)
    await reader.sweep.check()


async def test_an_entry_that_cannot_be_applied_keeps_no_other_away() -> None:
    reader = Reader(Owner([12, 13, 14]))
    await reader.sweep.turn()
    assert (reader.seen, reader.done_count) == ([12, 14], 1)


async def test_an_owner_that_is_away_is_asked_again_with_growing_pauses() -> None:
    reader = Reader(Owner([1], away_count=4))
    assert [await reader.sweep.turn() for _ in range(4)] == [1.0, 2.0, 4.0, 4.0]
    assert not reader.sweep.is_done
    with pytest.raises(Unavailable, match="list of numbers"):
        await reader.sweep.check()

    assert await reader.sweep.turn() == HOUR.total_seconds()
    await reader.sweep.check()


async def test_a_reading_that_fails_later_is_told_and_takes_nothing_back() -> None:
    owner = Owner([1])
    reader = Reader(owner)
    await reader.sweep.turn()
    owner.away_count = 1
    await reader.sweep.turn()

    assert reader.sweep.is_done
    with pytest.raises(Unavailable):
        await reader.sweep.check()


async def test_a_list_without_an_end_is_given_up() -> None:
    async def endless(token: str) -> ListPage[int]:
        return ListPage([], "again")

    sweep = Sweep(endless, lambda _: None, what="numbers", interval=HOUR, backoff=BACKOFF)
    await sweep.turn()
    assert not sweep.is_done


async def test_the_loop_reads_at_its_start_and_ends_when_told() -> None:
    reader = Reader(Owner([1, 2, 3]))
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(reader.sweep.run(stopping))

        async def is_read() -> bool:
            return reader.sweep.is_done

        await eventually(is_read, what="the list is read")
        stopping.set()
    assert reader.seen == [1, 2, 3]
