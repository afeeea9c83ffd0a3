"""How a consumer keeps a partition within its bound."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from services.chassis.events.consumer import EventConsumer
from services.chassis.events.envelope import Event, NewEvent, record_of
from services.chassis.events.memory_broker import MemoryBroker
from services.chassis.events.ports import ReceivedRecord, TopicPartition
from services.chassis.tenancy import TenantId

ORIGIN = TopicPartition("topic", 0)


class RegainedPartition:
    """A partition that is lost and regained within the second poll: Kafka forgets its pause."""

    def __init__(self) -> None:
        self.pauses = 0
        self.polls = 0
        self.is_done = asyncio.Event()

    async def poll(self, *, records_max: int, wait_s: float) -> Sequence[ReceivedRecord]:
        await asyncio.sleep(0)
        self.polls += 1
        if self.polls > 5:
            self.is_done.set()
        if self.polls > 2:
            return []
        return [a_record(offset) for offset in range(records_max)]

    def assigned(self) -> frozenset[TopicPartition]:
        return frozenset({ORIGIN})

    def store(self, origin: TopicPartition, offset: int) -> None:
        raise AssertionError("nothing is finished in this test")

    async def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self.pauses += len(list(partitions))

    async def resume(self, partitions: Iterable[TopicPartition]) -> None:
        raise AssertionError("there is no room in this test")

    async def lag(self) -> Mapping[TopicPartition, int]:
        return {}


def a_record(offset: int) -> ReceivedRecord:
    event = NewEvent("topic", "key", "modelyard.test.v1", "s", TenantId("t"), b"", "test")
    record = record_of(
        event, event_id=f"evt_{offset}", source="/test", time=datetime(2026, 1, 1, tzinfo=UTC)
    )
    return ReceivedRecord("topic", 0, offset, record.key, record.value, record.headers)


async def test_a_full_partition_is_paused_again_when_its_pause_was_forgotten() -> None:
    partition = RegainedPartition()

    async def handle(event: Event) -> None:
        await asyncio.Event().wait()

    async with MemoryBroker().open_producer() as dead_letters:
        consumer = EventConsumer(
            partition,
            {"modelyard.test.v1": handle},
            dead_letters=dead_letters,
            dead_letter_topic="dead",
            service="test",
            group="test",
        )
        running = asyncio.get_running_loop().create_task(consumer.run(asyncio.Event()))
        await partition.is_done.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert partition.pauses == 2
