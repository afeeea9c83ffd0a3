"""The `Producer` port."""

from datetime import timedelta

from services.chassis.errors import PayloadTooLarge, QueueFull, Unavailable
from services.chassis.events.partitioning import partition_of
from services.chassis.events.ports import Record
from tests.contract.events.brokers import Broker, given, numbered, polled, values


async def test_send_keeps_the_record_as_it_is(broker: Broker) -> None:
    topic = await broker.new_topic()
    headers = (("ce_subject", "modèle/数字".encode()), ("empty", b""), ("ce_id", b"1"))
    record = Record(topic, "schlüssel".encode(), b"\x00\xff", headers)

    await given(broker, [record])

    async with broker.join("readers", topic) as member:
        (received,) = await polled(member, 1)
    assert (received.topic, received.key, received.value) == (topic, record.key, record.value)
    assert received.headers == headers
    assert received.offset == 0


async def test_send_keeps_a_tombstone_apart_from_an_empty_value(broker: Broker) -> None:
    topic = await broker.new_topic(partition_count=1)

    await given(broker, [Record(topic, b"k", b""), Record(topic, b"k", None)])

    async with broker.join("readers", topic) as member:
        assert values(await polled(member, 2)) == [b"", None]


async def test_send_all_keeps_the_order_of_each_key(broker: Broker) -> None:
    topic = await broker.new_topic(partition_count=4)
    keys = ["a", "b", "c", "d", "e", "f"]
    records = [record for n in range(50) for key in keys for record in numbered(topic, key, [n])]

    await given(broker, records)

    async with broker.join("readers", topic) as member:
        received = await polled(member, len(records))
    for key in keys:
        of_key = [record for record in received if record.key == key.encode()]
        assert values(of_key) == values_of(50)
        assert {record.partition for record in of_key} == {partition_of(key.encode(), 4)}


async def test_send_all_refuses_the_rest_of_a_key_when_one_of_its_records_is_too_large(
    broker: Broker,
) -> None:
    topic = await broker.new_topic(partition_count=1)
    records = [
        Record(topic, b"a", b"1"),
        Record(topic, b"a", bytes(2_000_000)),
        Record(topic, b"a", b"3"),
        Record(topic, b"b", b"1"),
    ]

    async with broker.open_producer() as producer:
        outcomes = await producer.send_all(records)

    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        PayloadTooLarge,
        PayloadTooLarge,
        type(None),
    ]
    async with broker.join("readers", topic) as member:
        received = await polled(member, 2)
    assert [(record.key, record.value) for record in received] == [(b"a", b"1"), (b"b", b"1")]


async def test_send_tells_when_too_much_waits_for_the_broker(broker: Broker) -> None:
    topic = await broker.new_topic()

    async with broker.open_unanswered_producer(
        queue_records_max=10, ack_wait_max=timedelta(seconds=0.3)
    ) as producer:
        outcomes = await producer.send_all(numbered(topic, "a", range(12)))
        again = await producer.send_all(numbered(topic, "a", range(1)))

    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 10 + [QueueFull] * 2
    assert [type(outcome) for outcome in again] == [Unavailable]  # the places are free again


async def test_ping_tells_whether_the_broker_answers(broker: Broker) -> None:
    async with broker.open_producer() as producer:
        await producer.ping()


def values_of(count: int) -> list[bytes | None]:
    return [str(number).encode() for number in range(count)]
