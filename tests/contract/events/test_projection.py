"""`CompactedProjection` and the `TopicReader` port below it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from services.chassis.events.envelope import Event, tombstone_of
from services.chassis.events.ports import Record
from services.chassis.events.projection import CompactedProjection
from tests.contract.events.brokers import Broker, an_event, given, until
from tests.support.eventually import WITHIN_S


class LastIds:
    """What the topic says last about each key."""

    def __init__(self) -> None:
        self.by_key: dict[str, str] = {}

    def apply(self, event: Event) -> None:
        if event.id == "e666":
            raise ValueError(event.id)
        self.by_key[event.key] = event.id

    def forget(self, key: str) -> None:
        self.by_key.pop(key, None)


@asynccontextmanager
async def projected(
    broker: Broker,
    topic: str,
    picture: LastIds,
    on_caught_up: Callable[[], None] = lambda: None,
) -> AsyncIterator[CompactedProjection]:
    projection = CompactedProjection(
        broker.settings,
        topic,
        picture.apply,
        forget=picture.forget,
        on_caught_up=on_caught_up,
        open_reader=broker.open_reader,
    )
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(projection.run(stopping))
        try:
            async with asyncio.timeout(WITHIN_S):
                await projection.caught_up()
            yield projection
        finally:
            stopping.set()


async def test_a_projection_is_caught_up_when_all_that_lay_there_is_applied(
    broker: Broker,
) -> None:
    topic = await broker.new_topic(partition_count=4, compacted=True)
    keys = [f"d{number}" for number in range(40)]
    await given(broker, [an_event(topic, n, key=key) for n in range(30) for key in keys])
    picture = LastIds()

    async with projected(broker, topic, picture):
        assert picture.by_key == dict.fromkeys(keys, "e29")

        await given(broker, [an_event(topic, 30, key="d7")])
        await until(lambda: picture.by_key["d7"] == "e30")


async def test_a_projection_of_an_empty_topic_is_caught_up(broker: Broker) -> None:
    topic = await broker.new_topic(compacted=True)

    async with projected(broker, topic, LastIds()) as projection:
        assert projection.is_caught_up


async def test_a_projection_says_once_that_it_is_caught_up(broker: Broker) -> None:
    topic = await broker.new_topic(partition_count=1, compacted=True)
    await given(broker, [an_event(topic, 1, key="a")])
    picture, seen = LastIds(), list[dict[str, str]]()

    async with projected(broker, topic, picture, lambda: seen.append(dict(picture.by_key))):
        assert seen == [{"a": "e1"}]
        await broker.make_again(topic, partition_count=1)
        await given(broker, [an_event(topic, 2, key="b")])
        await until(lambda: picture.by_key == {"a": "e1", "b": "e2"})
    assert len(seen) == 1


async def test_a_projection_forgets_a_key_at_its_tombstone(broker: Broker) -> None:
    topic = await broker.new_topic(compacted=True)
    await given(broker, [an_event(topic, 1, key="a"), an_event(topic, 2, key="b")])
    await given(broker, [tombstone_of(topic, "a")])
    picture = LastIds()

    async with projected(broker, topic, picture):
        assert picture.by_key == {"b": "e2"}


async def test_a_projection_passes_by_what_it_cannot_apply(broker: Broker) -> None:
    topic = await broker.new_topic(partition_count=1, compacted=True)
    garbage = Record(topic, b"g", b"what is this")
    await given(broker, [garbage, an_event(topic, 666, key="a"), an_event(topic, 1, key="b")])
    picture = LastIds()

    async with projected(broker, topic, picture):
        assert picture.by_key == {"b": "e1"}


async def test_two_projections_see_everything_each(broker: Broker) -> None:
    topic = await broker.new_topic(compacted=True)
    await given(broker, [an_event(topic, 1, key="a"), an_event(topic, 2, key="b")])
    one, other = LastIds(), LastIds()

    async with projected(broker, topic, one), projected(broker, topic, other):
        assert one.by_key == other.by_key == {"a": "e1", "b": "e2"}


@pytest.mark.parametrize(
    ("told_before", "told_after"),
    [(40, 3), (3, 40)],
    ids=["position beyond the new end", "position within the new topic"],
)
async def test_a_projection_reads_a_topic_that_was_made_again_from_its_beginning(
    broker: Broker, told_before: int, told_after: int
) -> None:
    topic = await broker.new_topic(partition_count=1, compacted=True)
    await given(broker, [an_event(topic, n, key=f"old{n}") for n in range(told_before)])
    picture = LastIds()

    async with projected(broker, topic, picture) as projection:
        before = dict(picture.by_key)
        await broker.make_again(topic, partition_count=1)
        await given(broker, [an_event(topic, n, key=f"new{n}") for n in range(told_after)])

        after = {f"new{n}": f"e{n}" for n in range(told_after)}
        await until(lambda: picture.by_key == before | after)
        assert projection.is_caught_up
        await given(broker, [an_event(topic, 99, key="old0")])
        await until(lambda: picture.by_key["old0"] == "e99")
