"""A group whose topic was deleted and made again reads the new one from its beginning."""

import pytest

from services.chassis.events.ports import ReceivedRecord, Subscription
from tests.contract.events.brokers import Broker, given, numbered, polled, values

FEWER_OR_MORE = pytest.mark.parametrize(
    ("told_before", "told_after"),
    [(40, 3), (3, 40)],
    ids=["position beyond the new end", "position within the new topic"],
)


def stored(member: Subscription, records: list[ReceivedRecord]) -> None:
    for record in records:
        member.store(record.origin, record.offset + 1)


@FEWER_OR_MORE
async def test_a_group_that_reads_goes_on_with_all_of_the_new_topic(
    broker: Broker, told_before: int, told_after: int
) -> None:
    topic = await broker.new_topic(partition_count=1)
    await given(broker, numbered(topic, "old", range(told_before)))

    async with broker.join("readers", topic) as member:
        stored(member, await polled(member, told_before))
        for _ in range(10):
            await member.poll(records_max=1, wait_s=0.1)
        await broker.make_again(topic, partition_count=1)
        await given(broker, numbered(topic, "new", range(told_after)))
        records = await polled(member, told_after)
    assert values(records) == [str(number).encode() for number in range(told_after)]


@FEWER_OR_MORE
async def test_a_group_that_was_away_begins_with_the_first_of_the_new_topic(
    broker: Broker, told_before: int, told_after: int
) -> None:
    topic = await broker.new_topic(partition_count=1)
    await given(broker, numbered(topic, "old", range(told_before)))
    async with broker.join("readers", topic) as member:
        stored(member, await polled(member, told_before))

    await broker.make_again(topic, partition_count=1)
    await given(broker, numbered(topic, "new", range(told_after)))

    async with broker.join("readers", topic) as member:
        records = await polled(member, told_after)
    assert values(records) == [str(number).encode() for number in range(told_after)]
