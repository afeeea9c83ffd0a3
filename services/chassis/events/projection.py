"""An in-memory picture of a compacted topic: the last value of every key.

Owns: reading the whole topic at start and following it after, in every process and without a group.
Leaves to `apply` what is kept, and that it drops a version lower than the one it has.

The partitions are those at the opening: a compacted topic is never widened, since its keys would
move away from their earlier values. A topic that was deleted and made again is read from its
beginning; what the first one told stays, until the new one or the owner's list (`sweep`) says more.

Always holds: it is caught up only once every record that lay in the topic at the start has been
applied. A broker's outage afterwards makes the picture old, not absent: it stays caught up, and
goes on where it was when the broker is back.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from loguru import logger

from services.chassis.errors import Unavailable
from services.chassis.events import telemetry
from services.chassis.events.consumer import DEFAULT_BACKOFF, Backoff, place
from services.chassis.events.envelope import Event, Undecodable, from_record
from services.chassis.events.kafka_consumer import open_reader as open_kafka_reader
from services.chassis.events.ports import ReceivedRecord, TopicReader
from services.chassis.settings import KafkaSettings
from services.chassis.waiting import is_set_within

_RECORDS_MAX: Final = 1_000
_POLL_S: Final = 0.5
"""Without a record: the first one ends it. A stop waits so long, and news of a new topic."""


class OpenReader(Protocol):
    """Opens a topic for reading: on Kafka, or on a `MemoryBroker`."""

    def __call__(
        self, settings: KafkaSettings, topic: str, *, client_id: str
    ) -> AbstractAsyncContextManager[TopicReader]:
        """Give the reader; raises Unavailable."""
        ...


def _keep(_: str) -> None:
    """Ignore a tombstone: the deleted state that preceded it has done the work."""


def _nothing() -> None:
    """Do nothing more when the picture is complete."""


class CompactedProjection:
    """Calls `apply` with every event of the topic, in each key's order; `forget` with dead keys."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        apply: Callable[[Event], None],
        *,
        forget: Callable[[str], None] = _keep,
        on_caught_up: Callable[[], None] = _nothing,
        client_id: str = "projection",
        open_reader: OpenReader = open_kafka_reader,
        backoff: Backoff = DEFAULT_BACKOFF,
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._apply = apply
        self._forget = forget
        self._on_caught_up = on_caught_up
        self._client_id = client_id
        self._open_reader = open_reader
        self._backoff = backoff
        self._caught_up = asyncio.Event()

    @property
    def is_caught_up(self) -> bool:
        """Whether the picture is complete as of the start or later."""
        return self._caught_up.is_set()

    async def caught_up(self) -> None:
        """Return when the picture is complete as of the start or later."""
        await self._caught_up.wait()

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow the topic until `stopping` is set; while it can't be read, try again."""
        failure_count = 0
        while not stopping.is_set():
            try:
                async with self._open_reader(
                    self._settings, self._topic, client_id=self._client_id
                ) as reader:
                    failure_count = 0
                    await self._follow(reader, stopping)
            except Unavailable as error:
                failure_count += 1
                logger.warning("topic can't be read", topic=self._topic, cause=error.message)
                await is_set_within(stopping, self._backoff.pause_s(failure_count))

    async def _follow(self, reader: TopicReader, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            for record in await reader.poll(records_max=_RECORDS_MAX, wait_s=_POLL_S):
                telemetry.EVENTS_PROJECTED.labels(record.topic, self._take(record)).inc()
            if reader.is_caught_up() and not self._caught_up.is_set():
                self._caught_up.set()
                self._on_caught_up()

    def _take(self, record: ReceivedRecord) -> str:
        """Apply one record; one that can't be is logged, and the others still count."""
        try:
            if record.value is None:
                self._forget((record.key or b"").decode())
            else:
                self._apply(from_record(record))
        except (Undecodable, UnicodeDecodeError) as error:
            logger.error("record is no event", **place(record), cause=str(error))
            return "undecodable"
        except Exception:  # noqa: BLE001 - a picture without one entry serves better than none
            logger.exception("event could not be applied", **place(record))
            return "failed"
        return "done"
