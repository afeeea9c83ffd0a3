"""The brokers under test behind one face, and what tests give them."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from services.chassis.events import kafka_consumer, kafka_producer
from services.chassis.events.envelope import NewEvent, record_of
from services.chassis.events.memory_broker import MemoryBroker
from services.chassis.events.ports import (
    Producer,
    ReceivedRecord,
    Record,
    Subscription,
    TopicPartition,
)
from services.chassis.events.projection import OpenReader
from services.chassis.settings import KafkaSettings
from services.chassis.tenancy import TenantId
from tests.support.eventually import WITHIN_S, eventually

AT = datetime(2026, 1, 1, tzinfo=UTC)
NOBODY_LISTENS = "127.0.0.1:9"


class Broker(Protocol):
    """What both brokers offer to a test."""

    settings: KafkaSettings
    open_reader: OpenReader

    async def new_topic(self, *, partition_count: int = 2, compacted: bool = False) -> str: ...

    async def make_again(self, topic: str, *, partition_count: int) -> None: ...

    def open_producer(self) -> AbstractAsyncContextManager[Producer]: ...

    def open_unanswered_producer(
        self, *, queue_records_max: int, ack_wait_max: timedelta
    ) -> AbstractAsyncContextManager[Producer]: ...

    def join(self, group: str, *topics: str) -> AbstractAsyncContextManager[Subscription]: ...


class InMemory:
    """`MemoryBroker`."""

    def __init__(self) -> None:
        self._broker = MemoryBroker()
        self.settings = KafkaSettings(bootstrap_servers="in-memory")
        self.open_reader: OpenReader = self._broker.open_reader
        self._numbers = itertools.count()

    async def new_topic(self, *, partition_count: int = 2, compacted: bool = False) -> str:
        topic = f"topic-{next(self._numbers)}"
        self._broker.create_topic(topic, partition_count=partition_count)
        return topic

    async def make_again(self, topic: str, *, partition_count: int) -> None:
        self._broker.delete_topic(topic)
        self._broker.create_topic(topic, partition_count=partition_count)

    def open_producer(self) -> AbstractAsyncContextManager[Producer]:
        return self._broker.open_producer()

    @asynccontextmanager
    async def open_unanswered_producer(
        self, *, queue_records_max: int, ack_wait_max: timedelta
    ) -> AsyncIterator[Producer]:
        self._broker.go_down()
        async with self._broker.open_producer(
            queue_records_max=queue_records_max, ack_wait_max=ack_wait_max
        ) as producer:
            yield producer

    def join(self, group: str, *topics: str) -> AbstractAsyncContextManager[Subscription]:
        return self._broker.open_subscription(group=group, topics=topics)


class OnKafka:
    """The adapters for Apache Kafka, on a real broker that other tests use too."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.settings = KafkaSettings(bootstrap_servers=bootstrap_servers)
        self.open_reader: OpenReader = kafka_consumer.open_reader
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers})

    async def new_topic(
        self, *, partition_count: int = 2, compacted: bool = False, name: str | None = None
    ) -> str:
        topic = name or f"events-{secrets.token_hex(6)}"
        config = {"cleanup.policy": "compact" if compacted else "delete"}
        made = self._admin.create_topics([NewTopic(topic, partition_count, 1, config=config)])
        await asyncio.to_thread(made[topic].result, WITHIN_S)
        return topic

    async def make_again(self, topic: str, *, partition_count: int) -> None:
        deleted = self._admin.delete_topics([topic])
        await asyncio.to_thread(deleted[topic].result, WITHIN_S)

        async def is_gone() -> bool:
            found = await asyncio.to_thread(self._admin.list_topics, timeout=WITHIN_S)
            return topic not in found.topics

        await eventually(is_gone, what="the topic is gone")
        await self.new_topic(partition_count=partition_count, compacted=True, name=topic)

    def open_producer(self) -> AbstractAsyncContextManager[Producer]:
        return kafka_producer.open_producer(self.settings, client_id="test")

    def open_unanswered_producer(
        self, *, queue_records_max: int, ack_wait_max: timedelta
    ) -> AbstractAsyncContextManager[Producer]:
        return kafka_producer.open_producer(
            KafkaSettings(bootstrap_servers=NOBODY_LISTENS),
            client_id="test",
            queue_records_max=queue_records_max,
            ack_wait_max=ack_wait_max,
        )

    def join(self, group: str, *topics: str) -> AbstractAsyncContextManager[Subscription]:
        return kafka_consumer.open_subscription(
            self.settings, group=f"{group}-{topics[0]}", topics=topics, client_id="test"
        )


def numbered(topic: str, key: str, numbers: Sequence[int]) -> list[Record]:
    """Return one record of this key for each number."""
    return [Record(topic, key.encode(), str(number).encode()) for number in numbers]


def an_event(topic: str, number: int, *, key: str = "job_1", type_: str = "a.known.v1") -> Record:
    """Return the record of an event with the id `e<number>`."""
    event = NewEvent(
        topic=topic,
        key=key,
        type=type_,
        subject=f"jobs/{key}",
        tenant=TenantId("acme"),
        data=b"data",
        dataschema="modelyard.test.v1.Happened",
    )
    return record_of(event, event_id=f"e{number}", source="/modelyard/test", time=AT)


async def given(broker: Broker, records: Sequence[Record]) -> None:
    """Have the broker acknowledge these records."""
    async with broker.open_producer() as producer:
        assert await producer.send_all(records) == [None] * len(records)


async def polled(
    member: Subscription, record_count: int, *, records_max: int = 100
) -> list[ReceivedRecord]:
    """Poll until this many records have come; more at once are returned too."""
    records: list[ReceivedRecord] = []
    async with asyncio.timeout(WITHIN_S):
        while len(records) < record_count:
            records += await member.poll(records_max=records_max, wait_s=0.1)
    return records


async def assigned(member: Subscription, partition_count: int) -> frozenset[TopicPartition]:
    """Poll until this many partitions are the member's."""
    async with asyncio.timeout(WITHIN_S):
        while len(member.assigned()) != partition_count:
            await member.poll(records_max=100, wait_s=0.1)
    return member.assigned()


async def shared(first: Subscription, second: Subscription) -> None:
    """Poll both, which a hand-over needs, until each has as many partitions as the other."""
    async with asyncio.timeout(WITHIN_S):
        while not second.assigned() or len(first.assigned()) != len(second.assigned()):
            await first.poll(records_max=1, wait_s=0.05)
            await second.poll(records_max=1, wait_s=0.05)


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds."""

    async def holds() -> bool:
        return condition()

    await eventually(holds, what="the condition of the test")


def values(records: Sequence[ReceivedRecord]) -> list[bytes | None]:
    """Return the records' values in order."""
    return [record.value for record in records]
