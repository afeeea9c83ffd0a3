"""The `Subscription` port: positions, groups, pausing."""

import asyncio

from services.chassis.events.ports import ReceivedRecord, TopicPartition
from tests.contract.events.brokers import (
    Broker,
    assigned,
    given,
    numbered,
    polled,
    shared,
    values,
)
from tests.support.eventually import WITHIN_S


async def test_records_come_again_when_their_position_was_not_stored(broker: Broker) -> None:
    topic = await broker.new_topic(partition_count=1)
    await given(broker, numbered(topic, "a", range(5)))

    async with broker.join("readers", topic) as member:
        records = await polled(member, 5)
        member.store(records[1].origin, records[1].offset + 1)

    async with broker.join("readers", topic) as member:
        assert values(await polled(member, 3)) == [b"2", b"3", b"4"]


async def test_groups_read_independently(broker: Broker) -> None:
    topic = await broker.new_topic(partition_count=1)
    await given(broker, numbered(topic, "a", range(2)))

    for group in ("one", "two"):
        async with broker.join(group, topic) as member:
            records = await polled(member, 2)
            member.store(records[-1].origin, records[-1].offset + 1)
        assert values(records) == [b"0", b"1"]


async def test_two_members_share_the_partitions_and_the_last_gets_them_all(broker: Broker) -> None:
    topic = await broker.new_topic(partition_count=4)
    every = {TopicPartition(topic, number) for number in range(4)}

    async with broker.join("readers", topic) as first:
        assert await assigned(first, 4) == every

        async with broker.join("readers", topic) as second:
            await shared(first, second)
            assert first.assigned() | second.assigned() == every
            assert not first.assigned() & second.assigned()

        assert await assigned(first, 4) == every


async def test_a_partition_goes_on_at_its_stored_position_when_it_changes_hands(
    broker: Broker,
) -> None:
    topic = await broker.new_topic(partition_count=2)
    keys = [f"k{number}" for number in range(8)]
    await given(broker, [r for key in keys for r in numbered(topic, key, [0])])

    async with broker.join("readers", topic) as first:
        for record in await polled(first, len(keys)):
            first.store(record.origin, record.offset + 1)
        async with broker.join("readers", topic) as second:
            await shared(first, second)
            await given(broker, [r for key in keys for r in numbered(topic, key, [1])])
            records: list[ReceivedRecord] = []
            async with asyncio.timeout(WITHIN_S):
                while len(records) < len(keys):
                    for member in (first, second):
                        records += await member.poll(records_max=100, wait_s=0.05)

    assert sorted(record.key or b"" for record in records) == [key.encode() for key in keys]
    assert set(values(records)) == {b"1"}


async def test_a_paused_partition_rests_while_others_go_on(broker: Broker) -> None:
    topic = await broker.new_topic(partition_count=2)
    keys = [f"k{number}" for number in range(10)]

    async with broker.join("readers", topic) as member:
        both = await assigned(member, 2)
        resting, going = sorted(both)
        await member.pause([resting])
        await given(broker, [r for key in keys for r in numbered(topic, key, range(2))])

        while_paused = await polled(member, 1)
        while more := await member.poll(records_max=100, wait_s=0.5):
            while_paused += more
        assert {record.origin for record in while_paused} == {going}

        await member.resume([resting])
        rest = await polled(member, 2 * len(keys) - len(while_paused))
    assert {record.origin for record in rest} == {resting}
    assert len(rest) + len(while_paused) == 2 * len(keys)


async def test_pausing_what_is_not_assigned_changes_nothing(broker: Broker) -> None:
    topic = await broker.new_topic(partition_count=1)
    stranger = TopicPartition(topic, 7)

    async with broker.join("readers", topic) as member:
        await member.pause([stranger])
        await member.resume([stranger])
        member.store(stranger, 3)
        assert await member.poll(records_max=1, wait_s=0.05) == []


async def test_lag_is_what_lies_ahead(broker: Broker) -> None:
    topic = await broker.new_topic(partition_count=1)
    await given(broker, numbered(topic, "a", range(5)))

    async with broker.join("readers", topic) as member:
        first = await polled(member, 1, records_max=1)
        await polled(member, 1, records_max=1)
        lag = await member.lag()
    assert lag == {first[0].origin: 3}
