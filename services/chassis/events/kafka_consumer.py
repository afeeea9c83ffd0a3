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

A topic that was deleted and made again is another one. To the broker, too: it takes the old one's
partitions away and gives the new one's, half a second later; but the group's positions may outlive
the topic (measured with librdkafka 2.16 on Kafka 4.3). So each is written with its topic's id, and
one of another id counts for nothing: the new topic is read from its beginning.

A client that has lost its brokers for good (`librdkafka.LostBrokers`) is replaced: a member's
partitions go and come back, as after any loss, and a reader of a whole topic ends with Unavailable.

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
from services.chassis.events import telemetry
from services.chassis.events.librdkafka import LOG, IsLost, LostBrokers, connection
from services.chassis.events.ports import Headers, ReceivedRecord, TopicPartition
from services.chassis.settings import KafkaSettings

_METADATA_S: Final = 5.0
_CLOSE_S: Final = 5.0
_IDENTITY_INTERVAL_S: Final = 5.0
"""A topic that was deleted and made again is read from its beginning so much later, or a little."""
_DESCRIBE_AGAIN_S: Final = 0.1
_COMMIT_INTERVAL_MS: Final = 500
_PARTITION_EOF: Final = KafkaError._PARTITION_EOF  # noqa: SLF001 - librdkafka's own codes look so

P = ParamSpec("P")
R = TypeVar("R")


@asynccontextmanager
async def open_subscription(
    settings: KafkaSettings,
    *,
    group: str,
    topics: Sequence[str],
    client_id: str,
    is_lost: IsLost | None = None,
) -> AsyncIterator["KafkaSubscription"]:
    """Join the group; on exit write the positions and leave, so that others take over at once.

    `is_lost` is `LostBrokers` unless a test has another one.
    """
    own = connection(settings, client_id=client_id)
    config = _config(own) | {
        "group.id": group,
        "group.protocol": "consumer",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": True,  # of stored positions, and again before a revocation
        "auto.commit.interval.ms": _COMMIT_INTERVAL_MS,
        "enable.auto.offset.store": False,  # only `store` moves a position
    }
    subscription = KafkaSubscription(config, topics, own, is_lost or LostBrokers(own))
    try:
        await subscription.join()
        yield subscription
    finally:
        await subscription.close()


@asynccontextmanager
async def open_reader(
    settings: KafkaSettings, topic: str, *, client_id: str, is_lost: IsLost | None = None
) -> AsyncIterator["KafkaTopicReader"]:
    """Read a topic from its first records. Raises Unavailable when its partitions can't be told.

    `is_lost` is `LostBrokers` unless a test has another one.
    """
    own = connection(settings, client_id=client_id)
    config = _config(own) | {
        "group.id": f"{client_id}-no-group",  # librdkafka wants one; `assign` never joins it
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        # Where what lay at the position is gone, the rest counts; by default it would be skipped.
        "auto.offset.reset": "earliest",
    }
    client = _Client(config)
    try:
        identity = _TopicIdentity(own, topic)
        reader = KafkaTopicReader(client, topic, identity, is_lost or LostBrokers(own))
        await reader.start()
        yield reader
    finally:
        await client.close()


def _config(own: dict[str, Any]) -> dict[str, Any]:
    return {
        **own,
        "queued.max.messages.kbytes": 8 * 1024,  # prefetched, over all partitions; 64 MB by default
        # A record ends a fetch at once; without one the broker answers so often, for nothing. What
        # was just assigned waits for the fetch under way.
        "fetch.wait.max.ms": 250,
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

    def abandon(self) -> None:
        """Close, without anybody waiting for it; what it has not written is lost."""
        self._calls.put(self.consumer.close)
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


class _BrokersLostError(Exception):
    """No broker will ever answer this client again."""


class KafkaSubscription:
    """The `Subscription` port on Apache Kafka; `open_subscription` makes it."""

    def __init__(
        self,
        config: dict[str, Any],
        topics: Sequence[str],
        asking: dict[str, Any],
        is_lost: IsLost,
    ) -> None:
        self._config = config
        self._topics = topics
        self._asking = asking
        self._is_lost = is_lost
        self._client = _Client(config)
        self._topic_ids: dict[str, str] = {}
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._arriving: frozenset[TopicPartition] = frozenset()
        self._stored: dict[TopicPartition, int] = {}
        self._stored_lock = threading.Lock()

    async def join(self) -> None:
        """Ask for a share of the topics; it comes during a later poll."""
        await self._client.call(
            self._client.consumer.subscribe,
            list(self._topics),
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    async def close(self) -> None:
        """Write the positions and leave, if the broker lets us."""
        await self._client.close()

    async def poll(self, *, records_max: int, wait_s: float) -> Sequence[ReceivedRecord]:
        """Return the next records; empty when none came in `wait_s`."""
        try:
            return await self._client.call(self._poll, records_max, wait_s)
        except _BrokersLostError:
            await self._begin_anew()
            return ()

    def assigned(self) -> frozenset[TopicPartition]:
        """Return the partitions that were this member's after the last poll."""
        return self._assigned

    def store(self, origin: TopicPartition, offset: int) -> None:
        """Move the group's position; written out within a second."""
        with self._stored_lock:
            self._stored[origin] = offset

    async def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Stop reading these partitions."""
        await self._client.call(self._pause, self._client.consumer.pause, frozenset(partitions))

    async def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions again."""
        await self._client.call(self._pause, self._client.consumer.resume, frozenset(partitions))

    async def lag(self) -> Mapping[TopicPartition, int]:
        """Return each partition's lag, from what the last fetches told."""
        return await self._client.call(self._lag)

    async def _begin_anew(self) -> None:
        """Join again as another member. Records whose position was not written yet come again."""
        logger.warning("kafka consumer has lost all brokers, a new one begins", topics=self._topics)
        telemetry.CONSUMERS_REBUILT.inc()
        lost, self._client = self._client, _Client(self._config)
        lost.abandon()
        self._assigned = self._arriving = frozenset()
        await self.join()

    # What follows runs on the client's thread.

    def _poll(self, records_max: int, wait_s: float) -> Sequence[ReceivedRecord]:
        if self._is_lost(self._client.consumer, self._topics[0]):
            raise _BrokersLostError
        self._write_positions()
        self._begin_arriving()
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
            Position(*origin, offset, self._topic_ids[origin.topic])
            for origin, offset in stored.items()
            if origin in self._assigned
        ]
        if mine:
            self._client.consumer.store_offsets(offsets=mine)

    def _begin_arriving(self) -> None:
        """Begin with partitions a poll after they came: one that went and came is seen to go."""
        if self._arriving:
            self._client.consumer.resume([Position(*origin) for origin in self._arriving])
            self._assigned |= self._arriving
            self._arriving = frozenset()

    def _pause(
        self, change: Callable[[list[Position]], None], partitions: frozenset[TopicPartition]
    ) -> None:
        if mine := partitions & self._assigned:
            change([Position(*origin) for origin in mine])

    def _lag(self) -> Mapping[TopicPartition, int]:
        lag = {}
        consumer = self._client.consumer
        for position in consumer.position([Position(*origin) for origin in self._assigned]):
            _, end = consumer.get_watermark_offsets(position, cached=True)
            if position.offset >= 0 and end >= 0:
                lag[_origin(position)] = max(0, end - position.offset)
        return lag

    def _on_assign(self, consumer: Consumer, positions: list[Position]) -> None:
        if consumer is not self._client.consumer:
            return  # an abandoned one, which takes nothing any more
        if positions:
            self._begin_made_again(consumer, positions)
        consumer.incremental_assign(positions)
        consumer.pause(positions)
        self._arriving |= {_origin(position) for position in positions}

    def _on_revoke(self, consumer: Consumer, positions: list[Position]) -> None:
        if consumer is self._client.consumer:
            self._write_positions()  # librdkafka commits them before it lets go
        self._let_go(consumer, positions)

    def _on_lost(self, consumer: Consumer, positions: list[Position]) -> None:
        # Somebody else may own them by now: nothing is written.
        self._let_go(consumer, positions)

    def _let_go(self, consumer: Consumer, positions: list[Position]) -> None:
        consumer.incremental_unassign(positions)
        if consumer is not self._client.consumer:
            return  # an abandoned one, whose partitions are the new one's by now
        gone = {_origin(position) for position in positions}
        self._assigned -= gone
        self._arriving -= gone

    def _begin_made_again(self, consumer: Consumer, positions: list[Position]) -> None:
        """Turn positions of another topic of the same name to the beginning.

        One without an id was written by an earlier release, or while the id could not be told.
        """
        asking = AdminClient(self._asking, logger=LOG)
        for topic in {position.topic for position in positions}:
            self._topic_ids[topic] = _id_of(asking, topic)
        try:
            written = consumer.committed(positions, timeout=_METADATA_S)
        except KafkaException as error:
            LOG.warning("COMMITTED the group's positions could not be asked for: %s", error)
            return
        ids = {_origin(position): position.metadata for position in written}
        for position in positions:
            if (then := ids[_origin(position)]) and then != self._topic_ids[position.topic]:
                logger.warning("topic was made again", topic=position.topic)
                position.offset = OFFSET_BEGINNING


def _id_of(asking: AdminClient, topic: str) -> str:
    """Return a topic's id; nothing, which is taken for every topic's, when it can't be told."""
    end = time.monotonic() + _METADATA_S
    while True:
        try:
            return str(_describe(asking, topic).result(_METADATA_S).topic_id)
        except (KafkaException, TimeoutError) as error:
            if time.monotonic() >= end:
                LOG.warning("DESCRIBE topic %s could not be asked for: %s", topic, error)
                return ""
        time.sleep(_DESCRIBE_AGAIN_S)  # it was made just now: not every broker knows it yet


def _describe(asking: AdminClient, topic: str) -> "Future[TopicDescription]":
    topics = TopicCollection([topic])
    return asking.describe_topics(topics, request_timeout=_METADATA_S)[topic]


class _TopicIdentity:
    """Notices that a topic was deleted and made again; for the client's thread.

    Without a group nothing else does: the consumer goes on at its position, past what lies below it
    in the new topic, without an error (measured with librdkafka 2.16 on Kafka 4.3).
    """

    def __init__(self, connection: dict[str, Any], topic: str) -> None:
        self._connection = connection
        self._asking = AdminClient(connection, logger=LOG)
        self._topic = topic
        self._first: str | None = None
        self._next_at = 0.0
        self._answer: Future[TopicDescription] | None = None

    def learn(self) -> None:
        """Wait for the identity that counts from now on; raises KafkaException, TimeoutError."""
        self._first = str(_describe(self._asking, self._topic).result(_METADATA_S).topic_id)
        self._next_at = time.monotonic() + _IDENTITY_INTERVAL_S

    def is_another(self) -> bool:
        """Tell whether another topic has the name, as of some seconds ago; waits for nothing."""
        if self._answer is None:
            if time.monotonic() >= self._next_at:
                self._answer = _describe(self._asking, self._topic)
            return False
        if not self._answer.done():
            return False
        answer, self._answer = self._answer, None
        self._next_at = time.monotonic() + _IDENTITY_INTERVAL_S
        if answer.exception() is None:
            return str(answer.result().topic_id) != self._first
        # A broker that is away, or a topic that is gone and not made again yet, tells nothing. Nor
        # does a client that has lost its brokers, so that the next one asked is a new one.
        self._asking = AdminClient(self._connection, logger=LOG)
        return False


class KafkaTopicReader:
    """The `TopicReader` port on Apache Kafka; `open_reader` makes it."""

    def __init__(
        self, client: _Client, topic: str, identity: _TopicIdentity, is_lost: IsLost
    ) -> None:
        self._client = client
        self._consumer = client.consumer
        self._topic = topic
        self._identity = identity
        self._is_lost = is_lost
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
        if self._is_lost(self._consumer, self._topic):
            raise Unavailable("kafka")
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
