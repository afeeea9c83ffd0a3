"""Reads from Apache Kafka in asyncio: as a member of a group, or a whole topic without one.

Owns: confluent's consumer and the one thread on which every call to it runs (`consume` is unsafe
beside pause and resume from other threads). A call waits at most for the poll before it; storing a
position, which happens for every record, is no call.

Groups use `group.protocol=consumer` (KIP-848): the broker computes assignments and moves single
partitions while the others go on, and how fast it reacts is the broker's setting
(`group.consumer.heartbeat.interval.ms=500`, `session.timeout.ms=6000` in the local stack: a second
member has its share after 1.2 s, a killed member's comes back after 6 s, a closed one's in under a
second). The classic protocol with cooperative-sticky is no faster with the same times, stops the
group at each rebalance, and needs the times in every client.

Always holds: a position moves only by `store`; it is written before a partition is handed over.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from queue import SimpleQueue
from typing import Any, Final, ParamSpec, TypeVar, cast

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
)
from confluent_kafka import TopicPartition as Position
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._topic import TopicDescription
from loguru import logger

from services.chassis.errors import Unavailable
from services.chassis.events.librdkafka import LOG, connection
from services.chassis.events.ports import Headers, ReceivedRecord, TopicPartition
from services.chassis.settings import KafkaSettings

_METADATA_S: Final = 5.0
_CLOSE_S: Final = 5.0
_IDENTITY_INTERVAL_S: Final = 5.0
"""A topic that was deleted and made again is read from its beginning so much later, or a little."""
_COMMIT_INTERVAL_MS: Final = 500
_PARTITION_EOF: Final = KafkaError._PARTITION_EOF  # noqa: SLF001 - librdkafka's own codes look so

P = ParamSpec("P")
R = TypeVar("R")


@asynccontextmanager
async def open_subscription(
    settings: KafkaSettings, *, group: str, topics: Sequence[str], client_id: str
) -> AsyncIterator["KafkaSubscription"]:
    """Join the group; on exit write the positions and leave, so that others take over at once."""
    config = _config(settings, client_id) | {
        "group.id": group,
        "group.protocol": "consumer",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": True,  # of stored positions, and again before a revocation
        "auto.commit.interval.ms": _COMMIT_INTERVAL_MS,
        "enable.auto.offset.store": False,  # only `store` moves a position
    }
    async with _open_client(config) as client:
        subscription = KafkaSubscription(client)
        await subscription.join(topics)
        yield subscription


@asynccontextmanager
async def open_reader(
    settings: KafkaSettings, topic: str, *, client_id: str
) -> AsyncIterator["KafkaTopicReader"]:
    """Read a topic from its first records. Raises Unavailable when its partitions can't be told."""
    config = _config(settings, client_id) | {
        "group.id": f"{client_id}-no-group",  # librdkafka wants one; `assign` never joins it
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        # Where what lay at the position is gone, the rest counts; by default it would be skipped.
        "auto.offset.reset": "earliest",
    }
    asking = AdminClient(connection(settings, client_id=client_id), logger=LOG)
    async with _open_client(config) as client:
        reader = KafkaTopicReader(client, topic, _TopicIdentity(asking, topic))
        await reader.start()
        yield reader


def _config(settings: KafkaSettings, client_id: str) -> dict[str, Any]:
    return {
        **connection(settings, client_id=client_id),
        "queued.max.messages.kbytes": 8 * 1024,  # prefetched, over all partitions; 64 MB by default
        "fetch.wait.max.ms": 100,
    }


class _Client:
    """confluent's consumer and its thread.

    The thread is a daemon: while the broker is away, closing blocks it (45 s after a kill, over
    100 s when the broker is silent; measured), which must not keep the process.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.consumer = Consumer(config, logger=LOG)
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._serve, name="kafka-consumer", daemon=True).start()

    async def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run on the thread, after what was asked before."""
        answer: Future[R] = Future()

        def run() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(function(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 - raised where `call` was awaited
                answer.set_exception(error)

        self._calls.put(run)
        return await asyncio.wrap_future(answer)

    async def close(self) -> None:
        """Leave in order if the broker lets us; otherwise the group's session time-out does it."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self.call(self.consumer.close)
        except TimeoutError:
            logger.warning("kafka consumer not closed in time", waited_s=_CLOSE_S)
        finally:
            self._calls.put(None)

    def fetch(self, records_max: int, wait_s: float) -> list[Message]:
        """Wait for a first message, then take what is already here; on the thread.

        `consume(n, wait)` would wait for all n (531 ms instead of 6, measured).
        """
        first = self.consumer.poll(wait_s)
        if first is None:
            return []
        return [first, *self.consumer.consume(records_max - 1, 0)] if records_max > 1 else [first]

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


@asynccontextmanager
async def _open_client(config: dict[str, Any]) -> AsyncIterator[_Client]:
    client = _Client(config)
    try:
        yield client
    finally:
        await client.close()


class KafkaSubscription:
    """The `Subscription` port on Apache Kafka; `open_subscription` makes it."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._consumer = client.consumer
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._stored: dict[TopicPartition, int] = {}
        self._stored_lock = threading.Lock()

    async def join(self, topics: Sequence[str]) -> None:
        """Ask for a share of these topics; it comes during a later poll."""
        await self._client.call(
            self._consumer.subscribe,
            list(topics),
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    async def poll(self, *, records_max: int, wait_s: float) -> Sequence[ReceivedRecord]:
        """Return the next records; empty when none came in `wait_s`."""
        return await self._client.call(self._poll, records_max, wait_s)

    def assigned(self) -> frozenset[TopicPartition]:
        """Return the partitions that were this member's after the last poll."""
        return self._assigned

    def store(self, origin: TopicPartition, offset: int) -> None:
        """Move the group's position; written out within a second."""
        with self._stored_lock:
            self._stored[origin] = offset

    async def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Stop reading these partitions."""
        await self._client.call(self._pause, self._consumer.pause, frozenset(partitions))

    async def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions again."""
        await self._client.call(self._pause, self._consumer.resume, frozenset(partitions))

    async def lag(self) -> Mapping[TopicPartition, int]:
        """Return each partition's lag, from what the last fetches told."""
        return await self._client.call(self._lag)

    # What follows runs on the client's thread.

    def _poll(self, records_max: int, wait_s: float) -> Sequence[ReceivedRecord]:
        self._write_positions()
        records = []
        for message in self._client.fetch(records_max, wait_s):
            if (error := message.error()) is None:
                records.append(_received(message))
            elif error.fatal():
                raise Unavailable(f"kafka ({error.name()})")
            else:  # a topic that is not there yet, a broker that is away: librdkafka tries again
                LOG.warning("%s %s", error.name(), error.str())
        return records

    def _write_positions(self) -> None:
        with self._stored_lock:
            stored, self._stored = self._stored, {}
        mine = [
            Position(*origin, offset)
            for origin, offset in stored.items()
            if origin in self._assigned
        ]
        if mine:
            self._consumer.store_offsets(offsets=mine)

    def _pause(
        self, change: Callable[[list[Position]], None], partitions: frozenset[TopicPartition]
    ) -> None:
        if mine := partitions & self._assigned:
            change([Position(*origin) for origin in mine])

    def _lag(self) -> Mapping[TopicPartition, int]:
        lag = {}
        for position in self._consumer.position([Position(*origin) for origin in self._assigned]):
            _, end = self._consumer.get_watermark_offsets(position, cached=True)
            if position.offset >= 0 and end >= 0:
                lag[_origin(position)] = max(0, end - position.offset)
        return lag

    def _on_assign(self, consumer: Consumer, positions: list[Position]) -> None:
        consumer.incremental_assign(positions)
        consumer.resume(positions)  # a pause outlives an earlier assignment
        self._assigned |= {_origin(position) for position in positions}

    def _on_revoke(self, consumer: Consumer, positions: list[Position]) -> None:
        self._write_positions()  # librdkafka commits them before it lets go
        consumer.incremental_unassign(positions)
        self._assigned -= {_origin(position) for position in positions}

    def _on_lost(self, consumer: Consumer, positions: list[Position]) -> None:
        # Somebody else may own them by now: nothing is written.
        consumer.incremental_unassign(positions)
        self._assigned -= {_origin(position) for position in positions}


class _TopicIdentity:
    """Notices that a topic was deleted and made again; for the client's thread.

    Nothing else does: the consumer goes on at its position, past what lies below it in the new
    topic, without an error (measured with librdkafka 2.16 on Kafka 4.3).
    """

    def __init__(self, asking: AdminClient, topic: str) -> None:
        self._asking = asking
        self._topic = topic
        self._first: str | None = None
        self._next_at = 0.0
        self._answer: Future[TopicDescription] | None = None

    def learn(self) -> None:
        """Wait for the identity that counts from now on; raises KafkaException, TimeoutError."""
        self._first = str(self._ask().result(_METADATA_S).topic_id)
        self._next_at = time.monotonic() + _IDENTITY_INTERVAL_S

    def is_another(self) -> bool:
        """Tell whether another topic has the name, as of some seconds ago; waits for nothing."""
        if self._answer is None:
            if time.monotonic() >= self._next_at:
                self._answer = self._ask()
            return False
        if not self._answer.done():
            return False
        answer, self._answer = self._answer, None
        self._next_at = time.monotonic() + _IDENTITY_INTERVAL_S
        # A broker that is away, or a topic that is gone and not made again yet, tells nothing.
        return answer.exception() is None and str(answer.result().topic_id) != self._first

    def _ask(self) -> "Future[TopicDescription]":
        topics = TopicCollection([self._topic])
        return self._asking.describe_topics(topics, request_timeout=_METADATA_S)[self._topic]


class KafkaTopicReader:
    """The `TopicReader` port on Apache Kafka; `open_reader` makes it."""

    def __init__(self, client: _Client, topic: str, identity: _TopicIdentity) -> None:
        self._client = client
        self._consumer = client.consumer
        self._topic = topic
        self._identity = identity
        self._behind: set[int] = set()

    async def start(self) -> None:
        """Assign every partition from its beginning. Raises Unavailable."""
        await self._client.call(self._start)

    async def poll(self, *, records_max: int, wait_s: float) -> Sequence[ReceivedRecord]:
        """Return the next records."""
        return await self._client.call(self._poll, records_max, wait_s)

    def is_caught_up(self) -> bool:
        """Return whether each partition's end has been reached once."""
        return not self._behind

    def _start(self) -> None:
        try:
            # First of all: one that is made again from here on is noticed.
            self._identity.learn()
            metadata = self._consumer.list_topics(self._topic, timeout=_METADATA_S)
        except (KafkaException, TimeoutError) as error:
            raise Unavailable("kafka") from error
        partitions = metadata.topics[self._topic].partitions
        if not partitions:
            raise Unavailable(f"kafka topic {self._topic}")
        self._behind = set(partitions)
        self._consumer.assign(
            [Position(self._topic, partition, OFFSET_BEGINNING) for partition in partitions]
        )

    def _poll(self, records_max: int, wait_s: float) -> Sequence[ReceivedRecord]:
        if self._identity.is_another():
            raise Unavailable(f"kafka topic {self._topic}, which was made again,")
        records = []
        for message in self._client.fetch(records_max, wait_s):
            if (error := message.error()) is None:
                records.append(_received(message))
            elif error.code() == _PARTITION_EOF:
                # Its own event and not an offset: compaction leaves holes, also before the end.
                self._behind.discard(message.partition() or 0)
            elif error.fatal():
                raise Unavailable("kafka")
            else:
                LOG.warning("%s %s", error.name(), error.str())
        return records


def _origin(position: Position) -> TopicPartition:
    return TopicPartition(position.topic, position.partition)


def _received(message: Message) -> ReceivedRecord:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None and partition is not None and offset is not None  # noqa: PT018
    headers = cast("Headers", tuple(message.headers() or ()))
    return ReceivedRecord(topic, partition, offset, message.key(), message.value(), headers)
