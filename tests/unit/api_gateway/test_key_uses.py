"""Noting and writing when keys were used."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from services.api_gateway.entrypoints.loops.key_uses import KeyUsesLoop
from services.api_gateway.use_cases.key_uses import (
    KEYS_PER_WRITE_MAX,
    WRITTEN_AGAIN_AFTER,
    KeyUses,
    WriteKeyUses,
)
from services.chassis.errors import Unavailable
from tests.support.eventually import eventually

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass
class Store:
    """Remembers what was written, or fails with `error`."""

    written: list[Mapping[str, datetime]] = field(default_factory=list)
    error: Unavailable | None = None
    tries: int = 0

    async def write_uses(self, uses: Mapping[str, datetime], *, again_after: timedelta) -> None:
        assert again_after == WRITTEN_AGAIN_AFTER
        self.tries += 1
        if self.error is not None:
            raise self.error
        self.written.append(uses)


async def test_uses_are_written_together_and_once() -> None:
    uses, store = KeyUses(), Store()
    write = WriteKeyUses(uses, store)
    for number in range(KEYS_PER_WRITE_MAX + 1):
        for second in (1, 2):
            uses.note(f"key_{number}", at=NOON + timedelta(seconds=second))
    assert await write() == KEYS_PER_WRITE_MAX + 1
    assert [len(batch) for batch in store.written] == [KEYS_PER_WRITE_MAX, 1]
    assert store.written[0]["key_0"] == NOON + timedelta(seconds=2)
    assert await write() == 0


async def test_what_could_not_be_written_is_written_next_time() -> None:
    uses, store = KeyUses(), Store(error=Unavailable("database"))
    write = WriteKeyUses(uses, store)
    uses.note("key_1", at=NOON)
    with pytest.raises(Unavailable):
        await write()
    store.error = None
    assert await write() == 1


def test_a_use_that_comes_while_it_is_written_is_kept() -> None:
    uses = KeyUses()
    uses.note("key_1", at=NOON)
    batch = uses.some()
    uses.note("key_1", at=NOON + timedelta(seconds=1))
    uses.forget(batch)
    assert uses.some() == {"key_1": NOON + timedelta(seconds=1)}


def test_beyond_the_bound_further_keys_are_counted_only() -> None:
    uses = KeyUses(keys_max=1)
    for key_id in ("key_1", "key_2", "key_1"):
        uses.note(key_id, at=NOON)
    assert (list(uses.some()), uses.take_missed(), uses.take_missed()) == (["key_1"], 1, 0)


async def test_the_loop_goes_on_after_a_failure() -> None:
    uses, store, stopping = KeyUses(), Store(error=Unavailable("database")), asyncio.Event()
    loop = KeyUsesLoop(WriteKeyUses(uses, store), interval=timedelta(milliseconds=1))
    uses.note("key_1", at=NOON)

    async def tried_twice() -> bool:
        return store.tries >= 2

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(loop.run(stopping))
        await eventually(tried_twice, what="a second turn after a failed one")
        stopping.set()
    assert uses.some() == {"key_1": NOON}


async def test_the_loop_writes_a_last_time_when_told_to_stop() -> None:
    uses, store, stopping = KeyUses(), Store(), asyncio.Event()
    uses.note("key_1", at=NOON)
    stopping.set()
    loop = KeyUsesLoop(WriteKeyUses(uses, store), interval=timedelta(minutes=1))
    await loop.run(stopping)
    assert store.written == [{"key_1": NOON}]
