"""How blocks are told apart on the broker."""

from collections.abc import Sequence

from services.chassis.clock import SystemClock
from services.chassis.events.ports import Record
from services.log_collector.adapters.kafka_blocks import KafkaBlockPublisher
from services.log_collector.use_cases.ports import PublishableBlock


class Producer:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def send(self, record: Record) -> None:
        self.records.append(record)

    async def send_all(self, records: Sequence[Record]) -> list[Exception | None]:
        self.records += records
        return [None for _ in records]

    async def ping(self) -> None:
        pass


async def test_a_block_that_was_cut_anew_is_another_event() -> None:
    producer = Producer()
    publisher = KafkaBlockPublisher(producer, source="/log-collector", clock=SystemClock())
    shorter = PublishableBlock("att_1", "acme", 1, 10, b"ten records")
    longer = PublishableBlock("att_1", "acme", 1, 15, b"fifteen records")
    await publisher.publish([shorter, longer, shorter])

    ids = [dict(record.headers)["ce_id"] for record in producer.records]
    assert ids[0] == ids[2] != ids[1]
