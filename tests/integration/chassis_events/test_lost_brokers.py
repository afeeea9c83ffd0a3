"""A client that has lost its brokers for good is told from brokers that are away, and replaced.

The loss itself is a race inside librdkafka that no test can bring about at will.
"""

import asyncio

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata
from typing_extensions import override

from services.chassis.errors import Unavailable
from services.chassis.events.kafka_consumer import open_reader, open_subscription
from services.chassis.events.kafka_producer import open_producer
from services.chassis.events.librdkafka import Client, LostBrokers
from services.chassis.events.ports import ReceivedRecord
from tests.contract.events.brokers import (
    NOBODY_LISTENS,
    OnKafka,
    assigned,
    given,
    numbered,
    polled,
    until,
    values,
)

pytestmark = pytest.mark.integration


class Loss:
    """Says once that the client is lost, when a test has said so."""

    def __init__(self) -> None:
        self.is_next = False
        self.topics: list[str | None] = []
        """What brokers would have been asked about."""

    def __call__(self, _: Client, topic: str | None) -> bool:
        self.topics.append(topic)
        is_lost, self.is_next = self.is_next, False
        return is_lost


class Noting(AdminClient):
    """Notes which topics brokers tell it of."""

    def __init__(self, config: dict[str, str | int | float | bool]) -> None:
        super().__init__(config)
        self.told: list[set[str]] = []

    @override
    def list_topics(self, topic: str | None = None, timeout: float = -1) -> ClusterMetadata:
        found = super().list_topics(topic, timeout=timeout)
        self.told.append(set(found.topics))
        return found


@pytest.mark.parametrize(
    ("is_client_answered", "is_broker_there", "is_lost"),
    [(True, True, False), (False, True, True), (False, False, False)],
    ids=["all is well", "only others are answered", "brokers are away"],
)
def test_a_client_is_lost_if_brokers_answer_everybody_else(
    kafka_broker: str, *, is_client_answered: bool, is_broker_there: bool, is_lost: bool
) -> None:
    client = AdminClient(
        {"bootstrap.servers": kafka_broker if is_client_answered else NOBODY_LISTENS}
    )
    there = {"bootstrap.servers": kafka_broker if is_broker_there else NOBODY_LISTENS}

    assert LostBrokers(there, interval_s=0, patience_s=1)(client, "a-topic") is is_lost


async def test_brokers_are_asked_about_the_topic_alone(kafka_broker: str) -> None:
    events = OnKafka(kafka_broker)
    topic = await events.new_topic()
    await events.new_topic()
    client = Noting({"bootstrap.servers": kafka_broker})

    is_lost = LostBrokers({"bootstrap.servers": kafka_broker}, interval_s=0)
    assert not await asyncio.to_thread(is_lost, client, topic)

    assert client.told == [{topic}]


async def test_a_member_joins_again_and_misses_nothing(kafka_broker: str) -> None:
    events, loss = OnKafka(kafka_broker), Loss()
    topic = await events.new_topic(partition_count=2)
    await given(events, numbered(topic, "a", range(3)))

    async with open_subscription(
        events.settings, group=topic, topics=[topic], client_id="test", is_lost=loss
    ) as member:
        for record in await polled(member, 3):
            member.store(record.origin, record.offset + 1)
        loss.is_next = True
        await member.poll(records_max=1, wait_s=0)
        assert member.assigned() == frozenset()

        await given(events, numbered(topic, "a", range(3, 6)))
        records: list[ReceivedRecord] = []
        while not records or values(records)[-1] != b"5":
            records += await polled(member, 1)
        # Nothing of what the one before it lets go of is taken from the new one.
        assert len(await assigned(member, 2)) == 2
    assert values(records)[-3:] == [b"3", b"4", b"5"]
    assert set(loss.topics) == {topic}


async def test_a_producer_goes_on_in_a_new_session(kafka_broker: str) -> None:
    events, loss = OnKafka(kafka_broker), Loss()
    topic = await events.new_topic(partition_count=1)

    async with open_producer(events.settings, client_id="test", is_lost=loss) as producer:
        assert await producer.send_all(numbered(topic, "a", [0])) == [None]
        first = producer._session
        loss.topics.clear()
        await until(lambda: len(loss.topics) >= 2)
        assert set(loss.topics[1:]) == {topic}
        loss.is_next = True
        await until(lambda: producer._session is not first)
        assert await producer.send_all(numbered(topic, "a", [1])) == [None]

    async with events.join("readers", topic) as member:
        assert values(await polled(member, 2)) == [b"0", b"1"]


async def test_a_reader_ends_so_that_another_one_begins(kafka_broker: str) -> None:
    events, loss = OnKafka(kafka_broker), Loss()
    topic = await events.new_topic(partition_count=1)

    async with open_reader(events.settings, topic, client_id="test", is_lost=loss) as reader:
        loss.is_next = True
        with pytest.raises(Unavailable):
            await reader.poll(records_max=1, wait_s=0)
    assert loss.topics == [topic]
