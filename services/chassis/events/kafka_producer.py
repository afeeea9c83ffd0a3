"""Sends records to Apache Kafka from asyncio.

Owns: a plain `confluent_kafka.Producer` and the thread that serves its delivery reports. (Its
AIOProducer can't send headers and acknowledges a lone record after seconds; measured.)

A *session* is one librdkafka producer from its start to its first serious trouble. Records of a
session never time out inside librdkafka: there, a record that times out while the next one of its
key is sent leaves a gap that no retry can close in order. Instead whoever has waited too long gives
up the whole session: every unanswered record fails, and the next send opens a new one. A fatal
error of librdkafka (it refuses everything from then on) ends a session in the same way, and so does
the loss of all brokers for good (`librdkafka.LostBrokers`).

Always holds: within a session the records of a key are kept in the order sent, without gaps and
without duplicates; over sessions one may be kept twice, but never before one that preceded it.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as Client
from loguru import logger

from services.chassis.errors import (
    FailedPrecondition,
    ModelyardError,
    PayloadTooLarge,
    QueueFull,
    Unavailable,
)
from services.chassis.events import telemetry
from services.chassis.events.librdkafka import LOG, IsLost, LostBrokers, connection
from services.chassis.events.ports import Record
from services.chassis.settings import KafkaSettings

RECORD_BYTES_MAX: Final = 1_000_000
"""Key and value; topics take 48 KB more, so that a dead letter's added headers always fit."""

_POLL_S: Final = 0.1
_PING_S: Final = 1.5
"""Less than a readiness check may take, so that it is this answer that is told."""
_FLUSH_S: Final = 5.0
_PURGED: Final = KafkaError._PURGE_INFLIGHT  # noqa: SLF001 - librdkafka's own codes look so
_RETRY_AFTER: Final = timedelta(seconds=1)
_REFUSED_FOR_GOOD: Final = frozenset(
    {
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_Answer = asyncio.Future[KafkaError | None]


@asynccontextmanager
async def open_producer(
    settings: KafkaSettings,
    *,
    client_id: str,
    ack_wait_max: timedelta = timedelta(seconds=30),
    queue_records_max: int = 20_000,
    queue_bytes_max: int = 16 * 1024 * 1024,
    is_lost: IsLost | None = None,
) -> AsyncIterator["KafkaProducer"]:
    """Give a producer; on exit, wait a bounded time for what is not yet acknowledged.

    `ack_wait_max` should outlast a broker's restart. The queue's bounds are on what waits for the
    broker; beyond them a send fails with QueueFull. `is_lost` is `LostBrokers` unless a test has
    another one.
    """
    own = connection(settings, client_id=client_id)
    producer = KafkaProducer(
        {
            **own,
            "enable.idempotence": True,  # off by default, unlike Java's
            "partitioner": "murmur2_random",  # Java's; librdkafka's own maps keys elsewhere
            "message.timeout.ms": 0,  # never: see above
            "message.max.bytes": RECORD_BYTES_MAX,
            "linger.ms": 0,  # batches form behind requests in flight; a lone record gains 5 ms
            "queue.buffering.max.messages": queue_records_max,
            "queue.buffering.max.kbytes": queue_bytes_max // 1024,
            "request.timeout.ms": 10_000,
            "topic.metadata.propagation.max.ms": 5_000,
        },
        ack_wait_max=ack_wait_max,
        queue_records_max=queue_records_max,
        is_lost=is_lost or LostBrokers(own),
    )
    try:
        yield producer
    finally:
        await producer.close()


class KafkaProducer:
    """The `Producer` port on Apache Kafka; `open_producer` makes it."""

    def __init__(
        self,
        config: dict[str, Any],
        *,
        ack_wait_max: timedelta,
        queue_records_max: int,
        is_lost: IsLost,
    ) -> None:
        self._config = config
        self._ack_wait_max = ack_wait_max
        self._queue_records_max = queue_records_max
        self._is_lost = is_lost
        self._session = self._new_session()
        self._given_up: list[_Session] = []

    async def send(self, record: Record) -> None:
        """Return when the broker has acknowledged the record."""
        (error,) = await self.send_all([record])
        if error is not None:
            raise error

    async def send_all(self, records: Sequence[Record]) -> list[Exception | None]:
        """Send in this order; return for each record None or its error."""
        session = self._session
        answers = self._enqueue(session, records)
        pending = [answer for answer in answers if isinstance(answer, asyncio.Future)]
        if pending:
            _, late = await asyncio.wait(pending, timeout=self._ack_wait_max.total_seconds())
            if late:
                self._give_up(session)  # answers the late ones
        outcomes: list[Exception | None] = [
            _error_of(answer.result()) if isinstance(answer, asyncio.Future) else answer
            for answer in answers
        ]
        for record, outcome in zip(records, outcomes, strict=True):
            label = "acknowledged" if outcome is None else type(outcome).__name__
            telemetry.RECORDS_SENT.labels(record.topic, label).inc()
        return outcomes

    async def ping(self) -> None:
        """Return when a broker answers; raises Unavailable."""
        session = self._session  # the current one, which is alive
        try:
            await asyncio.to_thread(session.client.list_topics, session.topic, timeout=_PING_S)
        except KafkaException as error:
            raise Unavailable("kafka") from error

    async def close(self) -> None:
        """Wait, bounded, for what is unanswered; then end every session's thread."""
        for session in (*self._given_up, self._session):
            await asyncio.to_thread(session.end)

    def _enqueue(
        self, session: "_Session", records: Sequence[Record]
    ) -> list[_Answer | ModelyardError]:
        answers: list[_Answer | ModelyardError] = []
        # No gaps: a key stops at its first failure, and a full queue stops the whole call, even if
        # places have become free meanwhile.
        failed: dict[tuple[str, bytes], ModelyardError] = {}
        full: ModelyardError | None = None
        for record in records:
            error = full or failed.get((record.topic, record.key))
            if error is None:
                try:
                    answers.append(session.produce(record))
                    continue
                except BufferError:
                    error = full = QueueFull(
                        "kafka producer", limit=self._queue_records_max, retry_after=_RETRY_AFTER
                    )
                except KafkaException as refusal:
                    error = failed[record.topic, record.key] = _error(refusal.args[0])
            answers.append(error)
        return answers

    def _give_up(self, session: "_Session") -> None:
        if session is not self._session:
            return  # someone else was first
        logger.warning("kafka producer session given up, a new one begins")
        telemetry.PRODUCERS_REBUILT.inc()
        self._session = self._new_session()
        session.abandon()
        self._given_up = [gone for gone in self._given_up if gone.is_alive] + [session]

    def _new_session(self) -> "_Session":
        return _Session(self._config, on_fatal=self._give_up, is_lost=self._is_lost)


class _Session:
    """One librdkafka producer, the thread that polls it, and the sends that await an answer."""

    def __init__(
        self, config: dict[str, Any], *, on_fatal: Callable[["_Session"], None], is_lost: IsLost
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_fatal = on_fatal
        self._is_lost = is_lost
        self._reports: list[tuple[_Answer, KafkaError | None]] = []  # of this round; thread only
        self._unanswered: set[_Answer] = set()  # event loop only
        self.topic: str | None = None
        """What was sent to last; brokers are asked about no other once there is one."""
        self._ending = threading.Event()
        self._flush_s = _FLUSH_S
        self.client = Client({**config, "error_cb": self._on_error}, logger=LOG)
        self._thread = threading.Thread(target=self._serve, name="kafka-producer", daemon=True)
        self._thread.start()

    def produce(self, record: Record) -> _Answer:
        """Enqueue a record. Raises BufferError when the queue is full, KafkaException."""
        answer: _Answer = self._loop.create_future()
        self.client.produce(
            record.topic,
            key=record.key,
            value=record.value,
            headers=list(record.headers),
            on_delivery=partial(self._on_delivery, answer),
        )
        self._unanswered.add(answer)
        self.topic = record.topic
        return answer

    @property
    def is_alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def end(self) -> None:
        """Flush, bounded, and stop the thread; blocks until it has ended."""
        self._ending.set()
        self._thread.join()

    def abandon(self) -> None:
        """Fail what is unanswered, and let the thread end by itself without flushing."""
        self._flush_s = 0.0
        self._ending.set()
        gone = KafkaError(_PURGED)
        self._settle([(answer, gone) for answer in list(self._unanswered)])

    def _serve(self) -> None:
        client = self.client
        while not self._ending.is_set():
            client.poll(_POLL_S)
            self._hand_over()
            # A question waits behind a send that a broker is slow to answer, whose patience is
            # `ack_wait_max`.
            if not len(client) and self._is_lost(client, self.topic):
                self._loop.call_soon_threadsafe(self._on_fatal, self)
        client.flush(self._flush_s)
        client.purge()
        client.poll(0)
        self._hand_over()
        del self.client  # destroying it takes a while: here, and not on the event loop

    def _hand_over(self) -> None:
        """Give a whole round's reports to the event loop in one call: 20 us a record otherwise."""
        if self._reports:
            reports, self._reports = self._reports, []
            self._loop.call_soon_threadsafe(self._settle, reports)

    def _settle(self, reports: Sequence[tuple[_Answer, KafkaError | None]]) -> None:
        for answer, error in reports:
            self._unanswered.discard(answer)
            if not answer.done():
                answer.set_result(error)

    def _on_delivery(self, answer: _Answer, error: KafkaError | None, _: Message) -> None:
        self._reports.append((answer, error))  # runs inside poll, and must not raise

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._loop.call_soon_threadsafe(self._on_fatal, self)


def _error_of(answer: KafkaError | None) -> ModelyardError | None:
    return None if answer is None else _error(answer)


def _error(error: KafkaError) -> ModelyardError:
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return PayloadTooLarge("record", bytes_max=RECORD_BYTES_MAX)
    if error.code() in _REFUSED_FOR_GOOD:
        return FailedPrecondition(f"kafka refuses the record: {error.str()}")
    return Unavailable(f"kafka ({error.name()})")
