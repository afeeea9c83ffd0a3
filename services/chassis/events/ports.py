"""What the rest of the product asks of a broker.

Owns: the words. A *record* is bytes under a key on a topic; records of one key keep their order,
since a key always maps to one partition. A subscription's *position* in a partition is the offset
that the group would start from after a crash; it moves only by `store`, so a record that was
polled but not stored comes again. Implementations: `kafka_producer`, `kafka_consumer`
(Apache Kafka) and `memory_broker`; one contract suite holds them to the same promises.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Headers = tuple[tuple[str, bytes | None], ...]


class DuplicateEvent(Exception):
    """The event was delivered before and its effects are here; raised by the inbox."""

    def __init__(self, consumer: str, event_id: str) -> None:
        super().__init__(f"{consumer} has seen event {event_id}")
        self.consumer = consumer
        self.event_id = event_id


class TopicPartition(NamedTuple):
    """One ordered log of a topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Record:
    """What is sent; a value of None is a tombstone, with which compaction forgets the key."""

    topic: str
    key: bytes
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class ReceivedRecord:
    """What was read, and where it lay."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def origin(self) -> TopicPartition:
        """The partition that it was read from."""
        return TopicPartition(self.topic, self.partition)

    @property
    def size_bytes(self) -> int:
        """Key and value; headers are small and left out."""
        return len(self.key or b"") + len(self.value or b"")


class Producer(Protocol):
    """Sends records and knows which of them the broker keeps."""

    async def send(self, record: Record) -> None:
        """Return when the broker has acknowledged the record.

        Raises Unavailable (not acknowledged in time; it may have been kept nevertheless),
        QueueFull (too much is waiting for the broker), PayloadTooLarge, FailedPrecondition (the
        broker refuses this record for good).
        """
        ...

    async def send_all(self, records: Sequence[Record]) -> list[Exception | None]:
        """Send in this order; return for each record None or the error that `send` would raise.

        Never leaves a gap: when a record of a key fails, a later one of that key in the same call
        is not kept without it, unless it is sent again. So the caller goes on from the first
        failure of each key, and readers that drop event ids they know see every key in order.
        Calls with records of the same key must not overlap.
        """
        ...

    async def ping(self) -> None:
        """Return when a broker answers; raises Unavailable."""
        ...


class Subscription(Protocol):
    """A group member's share of some topics. Used from one event loop, `poll` by one caller."""

    async def poll(self, *, records_max: int, wait_s: float) -> Sequence[ReceivedRecord]:
        """Return the next records, each partition's in order; empty when none came in `wait_s`.

        Must be called again and again, also while partitions are paused: it keeps the membership.
        """
        ...

    def assigned(self) -> frozenset[TopicPartition]:
        """Return the partitions that were this member's after the last poll.

        One that went and came, also since its topic was made again, is missing after a poll.
        """
        ...

    def store(self, origin: TopicPartition, offset: int) -> None:
        """Move the group's position to `offset`, the next record to be read.

        Written out within a second, and before the partition or the membership is given up. Of
        no effect for a partition that is no longer this member's.
        """
        ...

    async def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Stop reading these partitions; others go on. Ignores those not assigned."""
        ...

    async def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions again, from where they were paused."""
        ...

    async def lag(self) -> Mapping[TopicPartition, int]:
        """Return how many records lie between each partition's position and its known end."""
        ...


class TopicReader(Protocol):
    """Reads a whole topic, every partition from its first record, without a group.

    A topic that was deleted and made again is another one: a reader of the first can't go on.
    """

    async def poll(self, *, records_max: int, wait_s: float) -> Sequence[ReceivedRecord]:
        """Return the next records; raises Unavailable when the reader can't go on."""
        ...

    def is_caught_up(self) -> bool:
        """Return whether all that lay in the topic when it was opened has been polled."""
        ...
