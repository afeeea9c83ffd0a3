"""A broker in memory: the same ports and promises as Kafka's adapters, without I/O or threads.

Owns: partitions, groups with their positions, outages. For simulations and for services run in one
process; the contract suite holds it and Apache Kafka to the same behaviour. What it leaves out:
retention, compaction, transactions.

Always holds: a partition has one owner in a group; the next one gets it only after the former has
polled again or left, and starts at the group's position.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from services.chassis.errors import ModelyardError, PayloadTooLarge, QueueFull, Unavailable
from services.chassis.events.partitioning import partition_of
from services.chassis.events.ports import ReceivedRecord, Record, TopicPartition
from services.chassis.waiting import is_set_within

RECORD_BYTES_MAX: Final = 1_000_000


class MemoryBroker:
    """Topics come to be when they are first named, with `partition_count` partitions."""

    def __init__(self, *, partition_count: int = 4) -> None:
        self._partition_count = partition_count
        self._topics: dict[str, list[list[ReceivedRecord]]] = {}
        self._groups: dict[str, _Group] = defaultdict(_Group)
        self._changed = asyncio.Event()
        self.up = asyncio.Event()
        self.up.set()

    def create_topic(self, topic: str, *, partition_count: int) -> None:
        """Make a topic with its own number of partitions; an existing one stays as it is."""
        self._topics.setdefault(topic, [[] for _ in range(partition_count)])

    def delete_topic(self, topic: str) -> None:
        """Delete a topic and the groups' positions; the next one of its name begins empty."""
        del self._topics[topic]
        for group in self._groups.values():
            group.forget(topic)
        self.announce()

    def records(self, topic: str) -> list[ReceivedRecord]:
        """Return all that a topic holds, partition by partition."""
        return [record for log in self.logs(topic) for record in log]

    def members(self, group: str) -> Sequence["MemorySubscription"]:
        """Return the members of a group in the order in which they joined."""
        return tuple(self._groups[group].members)

    def go_down(self) -> None:
        """Begin an outage: sends wait, polls bring nothing."""
        self.up.clear()

    def come_back(self) -> None:
        """End the outage; nothing that was acknowledged is lost."""
        self.up.set()
        self.announce()

    @asynccontextmanager
    async def open_producer(
        self,
        *,
        ack_wait_max: timedelta = timedelta(seconds=30),
        queue_records_max: int = 20_000,
    ) -> AsyncIterator["MemoryProducer"]:
        """Give a producer, as `kafka_producer.open_producer` does."""
        yield MemoryProducer(self, ack_wait_max, queue_records_max)

    @asynccontextmanager
    async def open_subscription(
        self, *, group: str, topics: Sequence[str]
    ) -> AsyncIterator["MemorySubscription"]:
        """Join a group, as `kafka_consumer.open_subscription` does."""
        for topic in topics:
            self.logs(topic)
        member = MemorySubscription(self, self._groups[group], frozenset(topics))
        self._groups[group].join(member, self._topics)
        self.announce()
        try:
            yield member
        finally:
            self._groups[group].leave(member, self._topics)
            self.announce()

    @asynccontextmanager
    async def open_reader(
        self, settings: object, topic: str, *, client_id: str
    ) -> AsyncIterator["MemoryTopicReader"]:
        """Read a whole topic, as `kafka_consumer.open_reader` does; the settings play no part."""
        if not self.up.is_set():
            raise Unavailable("broker")
        yield MemoryTopicReader(self, topic)

    # For the producers and readers below.

    def logs(self, topic: str) -> list[list[ReceivedRecord]]:
        """Return the topic's partitions, which come to be now if need be."""
        self.create_topic(topic, partition_count=self._partition_count)
        return self._topics[topic]

    def append(self, record: Record) -> None:
        """Keep a record at the end of its key's partition."""
        logs = self.logs(record.topic)
        partition = partition_of(record.key, len(logs))
        log = logs[partition]
        log.append(
            ReceivedRecord(
                record.topic, partition, len(log), record.key, record.value, record.headers
            )
        )
        self.announce()

    def read(
        self, positions: dict[TopicPartition, int], *, records_max: int
    ) -> list[ReceivedRecord]:
        """Return records from these positions on, and move the positions past them."""
        records: list[ReceivedRecord] = []
        if self.up.is_set():
            for origin, position in positions.items():
                log = self.logs(origin.topic)[origin.partition]
                records += log[position : position + records_max - len(records)]
        for record in records:
            positions[record.origin] = record.offset + 1
        return records

    def announce(self) -> None:
        """Wake everybody who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changes_within(self, seconds: float) -> bool:
        """Wait for the next change, `seconds` at most; return whether there was one."""
        return await is_set_within(self._changed, seconds)


class MemoryProducer:
    """The `Producer` port."""

    def __init__(
        self, broker: MemoryBroker, ack_wait_max: timedelta, queue_records_max: int
    ) -> None:
        self._broker = broker
        self._ack_wait_max = ack_wait_max
        self._queue_records_max = queue_records_max
        self._waiting_count = 0

    async def send(self, record: Record) -> None:
        """Keep the record."""
        (error,) = await self.send_all([record])
        if error is not None:
            raise error

    async def send_all(self, records: Sequence[Record]) -> list[Exception | None]:
        """Keep the records in this order; while the broker is down, wait for it."""
        outcomes = self._refusals(records)
        accepted = [index for index, error in enumerate(outcomes) if error is None]
        self._waiting_count += len(accepted)
        try:
            is_up = await is_set_within(self._broker.up, self._ack_wait_max.total_seconds())
        finally:
            self._waiting_count -= len(accepted)
        for index in accepted:
            if is_up:
                self._broker.append(records[index])
            else:
                outcomes[index] = Unavailable("broker")
        return outcomes

    async def ping(self) -> None:
        """Return unless the broker is down."""
        if not self._broker.up.is_set():
            raise Unavailable("broker")

    def _refusals(self, records: Sequence[Record]) -> list[Exception | None]:
        outcomes: list[Exception | None] = []
        failed: dict[tuple[str, bytes], ModelyardError] = {}  # no gaps in a key's order
        places = self._queue_records_max - self._waiting_count
        for record in records:
            error = failed.get((record.topic, record.key))
            if error is None and len(record.key) + len(record.value or b"") > RECORD_BYTES_MAX:
                error = failed[record.topic, record.key] = PayloadTooLarge(
                    "record", bytes_max=RECORD_BYTES_MAX
                )
            if error is None and places <= 0:
                error = QueueFull(
                    "broker", limit=self._queue_records_max, retry_after=timedelta(seconds=1)
                )
            places -= error is None
            outcomes.append(error)
        return outcomes


class MemorySubscription:
    """The `Subscription` port."""

    def __init__(self, broker: MemoryBroker, group: "_Group", topics: frozenset[str]) -> None:
        self._broker = broker
        self._group = group
        self.paused: set[TopicPartition] = set()
        self.topics = topics
        self.positions: dict[TopicPartition, int] = {}
        self.has_lost = False

    async def poll(self, *, records_max: int, wait_s: float) -> Sequence[ReceivedRecord]:
        """Take part in the group's changes, then return the next records."""
        due = asyncio.get_running_loop().time() + wait_s
        while True:
            if self.has_lost:
                self.has_lost = False
                return []
            if self._group.hand_over(self):
                self._broker.announce()
            self.paused &= self.positions.keys()
            flowing = {o: p for o, p in self.positions.items() if o not in self.paused}
            if records := self._broker.read(flowing, records_max=records_max):
                self.positions |= flowing
                return records
            if not await self._broker.changes_within(due - asyncio.get_running_loop().time()):
                return []

    def assigned(self) -> frozenset[TopicPartition]:
        """Return the partitions held since the last poll."""
        return frozenset(self.positions)

    def store(self, origin: TopicPartition, offset: int) -> None:
        """Move the group's position."""
        if origin in self.positions:
            self._group.committed[origin] = offset

    async def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Stop reading these partitions."""
        self.paused |= set(partitions) & self.positions.keys()

    async def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions again."""
        self.paused -= set(partitions)

    async def lag(self) -> Mapping[TopicPartition, int]:
        """Return how much lies ahead in each partition."""
        return {
            origin: len(self._broker.logs(origin.topic)[origin.partition]) - position
            for origin, position in self.positions.items()
        }


@dataclass(slots=True)
class _Group:
    """Who should have a partition, who still has it, and where the group stands in it."""

    members: list[MemorySubscription] = field(default_factory=list)
    wanted: dict[TopicPartition, MemorySubscription] = field(default_factory=dict)
    owners: dict[TopicPartition, MemorySubscription] = field(default_factory=dict)
    committed: dict[TopicPartition, int] = field(default_factory=dict)

    def join(
        self, member: MemorySubscription, topics: Mapping[str, Sequence[Sequence[object]]]
    ) -> None:
        """Add a member and share the partitions anew."""
        self.members.append(member)
        self._share(topics)

    def leave(
        self, member: MemorySubscription, topics: Mapping[str, Sequence[Sequence[object]]]
    ) -> None:
        """Take a member out; its partitions are free at once."""
        self.members.remove(member)
        self.owners = {o: owner for o, owner in self.owners.items() if owner is not member}
        member.positions.clear()
        self._share(topics)

    def forget(self, topic: str) -> None:
        """Take a topic's partitions from their members, and forget where the group stood."""
        self.committed = {o: at for o, at in self.committed.items() if o.topic != topic}
        for origin in [o for o in self.owners if o.topic == topic]:
            member = self.owners.pop(origin)
            del member.positions[origin]
            member.has_lost = True

    def hand_over(self, member: MemorySubscription) -> bool:
        """Let go of what others should have, take what is free; return whether anything moved."""
        released = [o for o in member.positions if self.wanted.get(o) is not member]
        for origin in released:
            del member.positions[origin], self.owners[origin]
        taken = [o for o, to in self.wanted.items() if to is member and o not in self.owners]
        for origin in taken:
            self.owners[origin] = member
            member.positions[origin] = self.committed.get(origin, 0)
        return bool(released or taken)

    def _share(self, topics: Mapping[str, Sequence[Sequence[object]]]) -> None:
        self.wanted = {}
        for topic, logs in topics.items():
            readers = [member for member in self.members if topic in member.topics]
            for partition in range(len(logs) if readers else 0):
                self.wanted[TopicPartition(topic, partition)] = readers[partition % len(readers)]


class MemoryTopicReader:
    """The `TopicReader` port."""

    def __init__(self, broker: MemoryBroker, topic: str) -> None:
        self._broker = broker
        self._topic = topic
        self._logs = broker.logs(topic)
        ends = [len(log) for log in self._logs]
        self._ends = {TopicPartition(topic, number): end for number, end in enumerate(ends)}
        self._positions = dict.fromkeys(self._ends, 0)

    async def poll(self, *, records_max: int, wait_s: float) -> Sequence[ReceivedRecord]:
        """Return the next records; raises Unavailable once another topic has the name."""
        records = self._read(records_max)
        if not records and await self._broker.changes_within(wait_s):
            records = self._read(records_max)
        return records

    def _read(self, records_max: int) -> list[ReceivedRecord]:
        if self._broker.logs(self._topic) is not self._logs:
            raise Unavailable(f"topic {self._topic}, which was made again,")
        return self._broker.read(self._positions, records_max=records_max)

    def is_caught_up(self) -> bool:
        """Return whether what lay there at the opening has been polled."""
        return all(self._positions[origin] >= end for origin, end in self._ends.items())
