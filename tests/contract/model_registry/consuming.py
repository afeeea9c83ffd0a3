"""The registry's consumer on some broker, and what it is told."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.chassis.events.consumer import EventConsumer
from services.chassis.events.envelope import from_headers
from services.chassis.events.ports import ReceivedRecord, Record, Subscription, TopicPartition
from services.model_registry.bootstrap import SERVICE
from tests.contract.events.brokers import Broker
from tests.integration.model_registry.registry import Registry
from tests.support.eventually import eventually


class Watched:
    """A subscription that counts the records that came to an end.

    A forgetful one loses their positions, as a process does that dies before it stores them.
    """

    def __init__(self, subscription: Subscription, *, is_forgetful: bool) -> None:
        self._subscription = subscription
        self._is_forgetful = is_forgetful
        self._ended_count = 0

    async def poll(self, *, records_max: int, wait_s: float) -> Sequence[ReceivedRecord]:
        return await self._subscription.poll(records_max=records_max, wait_s=wait_s)

    def assigned(self) -> frozenset[TopicPartition]:
        return self._subscription.assigned()

    def store(self, origin: TopicPartition, offset: int) -> None:
        self._ended_count += 1
        if not self._is_forgetful:
            self._subscription.store(origin, offset)

    async def pause(self, partitions: Iterable[TopicPartition]) -> None:
        await self._subscription.pause(partitions)

    async def resume(self, partitions: Iterable[TopicPartition]) -> None:
        await self._subscription.resume(partitions)

    async def lag(self) -> Mapping[TopicPartition, int]:
        return await self._subscription.lag()

    async def until_ended(self, count: int) -> None:
        """Wait until this many records came to an end."""

        async def are_ended() -> bool:
            return self._ended_count >= count

        await eventually(are_ended, what=f"{count} records came to an end")
        assert self._ended_count == count


@dataclass(frozen=True, slots=True)
class Consuming:
    """A registry, and the topics of this test."""

    registry: Registry
    broker: Broker
    jobs: str
    dead_letters: str

    async def tell(self, *records: Record) -> None:
        """Publish these records."""
        async with self.broker.open_producer() as producer:
            assert await producer.send_all(records) == [None] * len(records)

    @asynccontextmanager
    async def consumer(self, *, is_forgetful: bool = False) -> AsyncIterator[Watched]:
        """Consume until the block ends, as the registry's group."""
        async with (
            self.broker.join(SERVICE, self.jobs) as subscription,
            self.broker.open_producer() as producer,
        ):
            watched = Watched(subscription, is_forgetful=is_forgetful)
            consumer = EventConsumer(
                watched,
                self.registry.app.handlers,
                dead_letters=producer,
                dead_letter_topic=self.dead_letters,
                service=SERVICE,
                group=SERVICE,
            )
            stopping = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(consumer.run(stopping))
                try:
                    yield watched
                finally:
                    stopping.set()

    async def dead_letter(self) -> dict[str, str]:
        """Wait for a dead letter; return its headers."""
        async with self.broker.join("reader", self.dead_letters) as reader:

            async def next_ones() -> Sequence[ReceivedRecord]:
                return await reader.poll(records_max=1, wait_s=0.1)

            records = await eventually(next_ones, what="a dead letter")
        return from_headers(records[0].headers)
