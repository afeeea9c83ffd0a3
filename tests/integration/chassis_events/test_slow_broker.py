"""A broker that is slow, but there, is no lost one: nobody is replaced, nothing comes twice."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest
from confluent_kafka.admin import AdminClient

from deploy.local import kafka
from deploy.local.state import State
from services.chassis.events.kafka_consumer import open_reader, open_subscription
from services.chassis.events.kafka_producer import open_producer
from services.chassis.events.librdkafka import Client, LostBrokers
from services.chassis.events.ports import ReceivedRecord
from services.chassis.settings import KafkaSettings
from tests.contract.events.brokers import OnKafka, assigned, numbered, polled, until, values
from tests.support.eventually import eventually
from tests.support.free_port import free_port
from tests.support.slow_line import slow_line

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]

DELAY_S = 0.15
"""There and back; a group that hears of its members twice a second bears no more."""
ANSWER_S = 0.2
"""So that the first answer is always late; the patience is what it is elsewhere."""
QUESTIONS = 3


@dataclass
class Verdicts:
    """Asks as `LostBrokers` does, each time and beside the slow line; remembers what it found.

    So whoever is asked beside the client answers at once: nothing but patience speaks for it.
    """

    address: str
    given: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._is_lost = LostBrokers(
            {"bootstrap.servers": self.address}, interval_s=0, answer_s=ANSWER_S
        )

    def __call__(self, client: Client, topic: str | None) -> bool:
        is_lost = self._is_lost(client, topic)
        self.given.append(is_lost)
        return is_lost


@dataclass(frozen=True)
class Slow:
    """A broker, and the line on which its clients are."""

    events: OnKafka
    settings: KafkaSettings
    verdicts: Verdicts
    topic: str


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Give the address of a broker that sends its clients to a line, and the line's port."""
    state, port = State(tmp_path_factory.mktemp("slow-broker")), free_port()
    try:
        yield kafka.start(state, advertised=f"127.0.0.1:{port}"), port
    finally:
        kafka.halt(state)


@pytest.fixture
async def slow(broker: tuple[str, int]) -> AsyncIterator[Slow]:
    address, port = broker
    async with slow_line(address, port=port, delay_s=DELAY_S) as line:
        events = OnKafka(address)
        topic = await events.new_topic(partition_count=1)
        yield Slow(events, KafkaSettings(bootstrap_servers=line), Verdicts(address), topic)


async def test_an_answer_that_takes_its_time_is_waited_for(slow: Slow) -> None:
    client = AdminClient({"bootstrap.servers": slow.settings.bootstrap_servers})
    impatient = LostBrokers(
        {"bootstrap.servers": slow.verdicts.address},
        interval_s=0,
        answer_s=ANSWER_S,
        patience_s=ANSWER_S,
    )

    async def is_taken_for_lost() -> bool:
        return await asyncio.to_thread(impatient, client, slow.topic)

    await eventually(is_taken_for_lost, what="the line is slow enough to matter")
    assert await asyncio.to_thread(slow.verdicts, client, slow.topic) is False


async def test_a_member_stays_and_each_record_comes_once(slow: Slow) -> None:
    async with open_subscription(
        slow.settings,
        group=slow.topic,
        topics=[slow.topic],
        client_id="test",
        is_lost=slow.verdicts,
    ) as member:
        client = member._client
        await assigned(member, 1)
        async with open_producer(slow.settings, client_id="test") as producer:
            assert await producer.send_all(numbered(slow.topic, "a", range(3))) == [None] * 3
        records: list[ReceivedRecord] = await polled(member, 3)
        for record in records:
            member.store(record.origin, record.offset + 1)
        asked_before = len(slow.verdicts.given)
        while len(slow.verdicts.given) < asked_before + QUESTIONS:
            records += await member.poll(records_max=10, wait_s=0)

        assert member._client is client
        assert len(member.assigned()) == 1
    assert values(records) == [b"0", b"1", b"2"]
    assert not any(slow.verdicts.given)


async def test_a_producer_keeps_its_session_and_each_record_is_kept_once(slow: Slow) -> None:
    async with open_producer(slow.settings, client_id="test", is_lost=slow.verdicts) as producer:
        session = producer._session
        for number in range(QUESTIONS):
            assert await producer.send_all(numbered(slow.topic, "a", [number])) == [None]
            asked_before = len(slow.verdicts.given)
            await until(lambda: len(slow.verdicts.given) > asked_before)  # noqa: B023 awaited here

        assert producer._session is session
    assert not any(slow.verdicts.given)
    async with slow.events.join("readers", slow.topic) as member:
        assert values(await polled(member, QUESTIONS)) == [b"0", b"1", b"2"]


async def test_a_reader_goes_on(slow: Slow) -> None:
    async with open_reader(
        slow.settings, slow.topic, client_id="test", is_lost=slow.verdicts
    ) as reader:
        while len(slow.verdicts.given) < QUESTIONS or not reader.is_caught_up():
            assert await reader.poll(records_max=10, wait_s=0) == []
    assert not any(slow.verdicts.given)
