"""Nothing acknowledged is lost, and every key keeps its order, while the broker is away."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from services.chassis.errors import Unavailable
from services.chassis.events import kafka_producer
from services.chassis.events.consumer import EventConsumer
from services.chassis.events.envelope import Event
from services.chassis.events.kafka_producer import KafkaProducer
from services.chassis.events.ports import Producer
from services.chassis.events.projection import CompactedProjection
from tests.contract.events.brokers import OnKafka, an_event, until
from tests.integration.chassis_events.conftest import OwnBroker

KEYS = tuple(f"job_{number}" for number in range(6))

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]


class Outbox:
    """Sends numbered events of each key without end; goes on from each key's first failure."""

    def __init__(self, producer: Producer, topic: str) -> None:
        self._producer = producer
        self._topic = topic
        self.acknowledged = dict.fromkeys(KEYS, 0)  # events 0..n-1 of each key are kept
        self.failed_count = 0

    @property
    def acknowledged_count(self) -> int:
        return sum(self.acknowledged.values())

    async def run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            batch = [
                (key, first + ahead)
                for ahead in range(4)
                for key, first in self.acknowledged.items()
            ]
            outcomes = await self._producer.send_all(
                [an_event(self._topic, number, key=key) for key, number in batch]
            )
            stopped: set[str] = set()
            for (key, _), error in zip(batch, outcomes, strict=True):
                if error is not None:
                    assert isinstance(error, Unavailable)
                    self.failed_count += 1
                    stopped.add(key)
                elif key not in stopped:
                    self.acknowledged[key] += 1
            await asyncio.sleep(0.01)  # tidy: allow sleep because it is the relay's rhythm


class Inbox:
    """What a reader saw first of each event, by key."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, None]] = {key: {} for key in KEYS}

    async def handle(self, event: Event) -> None:
        self.apply(event)

    def apply(self, event: Event) -> None:
        self.seen[event.key].setdefault(event.id)

    def has_all_of(self, outbox: Outbox) -> bool:
        return all(len(self.seen[key]) >= count for key, count in outbox.acknowledged.items())

    def assert_ordered(self) -> None:
        for events in self.seen.values():
            assert list(events) == [f"e{number}" for number in range(len(events))]


async def _during(
    broker: OwnBroker,
    producer: KafkaProducer,
    topic: str,
    *,
    outage_s: float,
    outage: Callable[[], None],
    end_of_outage: Callable[[], None],
) -> tuple[Outbox, Sequence[Inbox]]:
    """Send, consume and project before, during and after an outage; return what was seen."""
    events = OnKafka(broker.address)
    outbox, consumed, projected = Outbox(producer, topic), Inbox(), Inbox()
    sending, reading = asyncio.Event(), asyncio.Event()
    projection = CompactedProjection(events.settings, topic, projected.apply)
    async with events.join("readers", topic) as subscription, asyncio.TaskGroup() as tasks:
        consumer = EventConsumer(
            subscription,
            {"a.known.v1": consumed.handle},
            dead_letters=producer,
            dead_letter_topic="unused",
            service="test",
            group="readers",
        )
        tasks.create_task(consumer.run(reading))
        tasks.create_task(projection.run(reading))
        tasks.create_task(outbox.run(sending))
        await projection.caught_up()
        await until(lambda: outbox.acknowledged_count > 200)
        await until(lambda: len(consumed.seen[KEYS[0]]) > 20)

        outage()
        await asyncio.sleep(outage_s)  # tidy: allow sleep because this is the outage
        before = outbox.acknowledged_count
        await asyncio.to_thread(end_of_outage)

        await until(lambda: outbox.acknowledged_count > before + 200)
        sending.set()
        await until(lambda: consumed.has_all_of(outbox) and projected.has_all_of(outbox))
        reading.set()
    return outbox, (consumed, projected)


@pytest.mark.parametrize("kind", ["frozen", "killed"])
async def test_sends_wait_out_an_outage(own_broker: OwnBroker, kind: str) -> None:
    events = OnKafka(own_broker.address)
    topic = await events.new_topic(partition_count=3)

    async with kafka_producer.open_producer(
        events.settings, client_id="test", ack_wait_max=timedelta(seconds=90)
    ) as producer:
        outbox, inboxes = await _during(
            own_broker,
            producer,
            topic,
            outage_s=8,
            outage=own_broker.freeze if kind == "frozen" else own_broker.kill,
            end_of_outage=own_broker.thaw if kind == "frozen" else own_broker.start,
        )

    assert outbox.failed_count == 0
    for inbox in inboxes:
        inbox.assert_ordered()


@pytest.mark.parametrize("kind", ["frozen", "killed"])
async def test_order_holds_when_sends_are_given_up_during_an_outage(
    own_broker: OwnBroker, kind: str
) -> None:
    events = OnKafka(own_broker.address)
    topic = await events.new_topic(partition_count=3)

    async with kafka_producer.open_producer(
        events.settings, client_id="test", ack_wait_max=timedelta(seconds=1)
    ) as producer:
        outbox, inboxes = await _during(
            own_broker,
            producer,
            topic,
            outage_s=4,
            outage=own_broker.freeze if kind == "frozen" else own_broker.kill,
            end_of_outage=own_broker.thaw if kind == "frozen" else own_broker.start,
        )

    assert outbox.failed_count > 0
    for inbox in inboxes:
        inbox.assert_ordered()
