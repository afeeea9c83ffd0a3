"""What only Apache Kafka's adapters do: sessions, killed members, late topics, bounded closing."""

import asyncio
import time

import pytest
from confluent_kafka import KafkaError

from services.chassis.errors import Unavailable
from services.chassis.events import kafka_producer
from services.chassis.events.kafka_consumer import open_subscription
from services.chassis.settings import KafkaSettings
from tests.contract.events.brokers import (
    NOBODY_LISTENS,
    OnKafka,
    given,
    numbered,
    polled,
    values,
)
from tests.integration.chassis_events.conftest import OwnBroker

pytestmark = pytest.mark.integration


async def test_a_fatal_error_ends_the_session_and_the_next_send_has_a_new_one(
    kafka_broker: str,
) -> None:
    events = OnKafka(kafka_broker)
    topic = await events.new_topic(partition_count=1)

    async with kafka_producer.open_producer(events.settings, client_id="test") as producer:
        await producer.send_all(numbered(topic, "a", [0]))
        first = producer._session
        # As librdkafka reports it, from the session's thread.
        await asyncio.to_thread(first._on_error, KafkaError(KafkaError._FATAL, fatal=True))
        outcomes = await producer.send_all(numbered(topic, "a", [1]))
        assert outcomes == [None]
        assert producer._session is not first

    async with events.join("readers", topic) as member:
        assert values(await polled(member, 2)) == [b"0", b"1"]


async def test_an_unknown_topic_is_told_and_harms_no_other(kafka_broker: str) -> None:
    events = OnKafka(kafka_broker)
    topic = await events.new_topic(partition_count=1)

    async with kafka_producer.open_producer(events.settings, client_id="test") as producer:
        unknown, known = await producer.send_all(
            [*numbered("no-such-topic", "a", [0]), *numbered(topic, "a", [0])]
        )

    assert isinstance(unknown, Unavailable)
    assert known is None


async def test_a_broker_that_is_not_there_is_told_by_ping() -> None:
    settings = KafkaSettings(bootstrap_servers=NOBODY_LISTENS)

    async with kafka_producer.open_producer(settings, client_id="test") as producer:
        with pytest.raises(Unavailable):
            await producer.ping()


async def test_a_topic_may_come_after_its_subscribers(kafka_broker: str) -> None:
    events = OnKafka(kafka_broker)
    early = await events.new_topic(partition_count=1)
    late = f"{early}-late"

    async with events.join("readers", early, late) as member:
        await given(events, numbered(early, "a", [0]))
        assert values(await polled(member, 1)) == [b"0"]

        await events.new_topic(partition_count=1, name=late)
        await given(events, numbered(late, "a", [1]))
        assert values(await polled(member, 1)) == [b"1"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frozen", "killed"])
async def test_closing_is_bounded_while_the_broker_is_away(
    own_broker: OwnBroker, kind: str
) -> None:
    events = OnKafka(own_broker.address)
    topic = await events.new_topic(partition_count=1)
    await given(events, numbered(topic, "a", range(3)))

    async with (
        kafka_producer.open_producer(events.settings, client_id="test") as producer,
        open_subscription(
            events.settings, group="readers", topics=[topic], client_id="test"
        ) as member,
    ):
        await producer.ping()
        await polled(member, 3)
        if kind == "frozen":
            own_broker.freeze()
        else:
            own_broker.kill()
        begun = time.monotonic()

    assert time.monotonic() - begun < 15.0
    if kind == "frozen":
        own_broker.thaw()
