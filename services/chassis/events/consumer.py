"""Brings every record of a subscription to an end, in each partition's order.

Owns: what happens to a record (`Handled`), when the group's position moves, and how a failure is
met. Leaves to the handlers that an event's effect happens once: they claim the event's id in the
transaction of its effect and raise DuplicateEvent when it is taken.

Each assigned partition has a *lane*: a bounded buffer and one task that works it off. A transient
failure stops its lane alone, which tries the same record again after a growing pause; meanwhile the
poll goes on, keeps the membership, and pauses the partition once the lane is full.

    handler returns              done           position moves
    DuplicateEvent               duplicate      position moves
    no handler, tombstone        skipped        position moves (a newer producer's type: not ours)
    Undecodable, non-retryable   dead-lettered  position moves once the dead letter is acknowledged
    retryable ModelyardError,
    lost connection, time-out    tried again    until it ends otherwise
    any other exception (a bug)  tried again    `bug_tries_max` times, then dead-lettered with an id

Always holds: a position never passes a record that has not come to one of the four ends.
"""

import asyncio
import itertools
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from loguru import logger
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from services.chassis.errors import ModelyardError
from services.chassis.events import telemetry
from services.chassis.events.envelope import Event, Undecodable, from_record
from services.chassis.events.ports import (
    DuplicateEvent,
    Producer,
    ReceivedRecord,
    Record,
    Subscription,
    TopicPartition,
)
from services.chassis.telemetry.tracing import context_from, tracer
from services.chassis.waiting import is_set_within

Handler = Callable[[Event], Awaitable[object]]

POLL_RECORDS_MAX: Final = 500
_POLL_S: Final = 0.1
_LAG_INTERVAL_S: Final = 5.0
_MESSAGE_MAX: Final = 500


class Handled(StrEnum):
    """How a record came to its end."""

    DONE = "done"
    DUPLICATE = "duplicate"
    SKIPPED = "skipped"
    DEAD_LETTERED = "dead_lettered"


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between tries of one record: doubling, bounded, half of each left to chance."""

    first: timedelta = timedelta(milliseconds=200)
    longest: timedelta = timedelta(seconds=10)
    chance: Callable[[], float] = random.random

    def pause_s(self, failures: int) -> float:
        """Return how long to wait after this many failures (1 or more)."""
        doubled_s = self.first.total_seconds() * 2.0 ** min(failures - 1, 30)
        return min(doubled_s, self.longest.total_seconds()) * (0.5 + self.chance() / 2)


DEFAULT_BACKOFF: Final = Backoff()


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a try of a record failed, and whether another can help."""

    error: Exception
    is_final: bool = False
    is_bug: bool = False

    @property
    def reason(self) -> str:
        """One word for the dead letter; a bug's text is for the log only."""
        if isinstance(self.error, ModelyardError):
            return self.error.code
        return "UNDECODABLE" if isinstance(self.error, Undecodable) else "INTERNAL"


class _Lane:
    """The records of one assignment of one partition, from their arrival to their end."""

    records_max: Final = 500
    bytes_max: Final = 4 * 1024 * 1024

    def __init__(self, origin: TopicPartition) -> None:
        self.origin = origin
        self.is_paused = False
        self.ended = asyncio.Event()
        self._records: deque[ReceivedRecord] = deque()
        self._size_bytes = 0
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether the partition should be paused."""
        return len(self._records) >= self.records_max or self._size_bytes >= self.bytes_max

    @property
    def has_room(self) -> bool:
        """Whether a paused partition should go on; far below full, since a pause drops prefetch."""
        return (
            len(self._records) <= self.records_max // 4 and self._size_bytes <= self.bytes_max // 4
        )

    @property
    def is_stopped(self) -> bool:
        """Whether the assignment, or the consumer, has ended."""
        return self._stopping.is_set()

    def put(self, record: ReceivedRecord) -> None:
        """Append a record. That it came shows that the partition is not paused.

        A pause is forgotten when the partition is lost and regained.
        """
        self.is_paused = False
        self._records.append(record)
        self._size_bytes += record.size_bytes
        self._changed.set()

    async def head(self) -> ReceivedRecord | None:
        """Wait for the oldest record; None once the lane is stopped."""
        while not self._stopping.is_set():
            if self._records:
                return self._records[0]
            self._changed.clear()
            await self._changed.wait()
        return None

    def drop_head(self) -> None:
        """Forget the oldest record, which has come to its end."""
        self._size_bytes -= self._records.popleft().size_bytes

    def stop(self) -> None:
        """Let the record in hand finish its current try; what is left comes again elsewhere."""
        self._stopping.set()
        self._changed.set()

    async def is_stopped_within(self, seconds: float) -> bool:
        """Wait; return early, and True, when the lane is stopped."""
        return await is_set_within(self._stopping, seconds)


class EventConsumer:
    """Runs the handlers of one group over its subscription; see the module for the rules."""

    def __init__(
        self,
        subscription: Subscription,
        handlers: Mapping[str, Handler],
        *,
        dead_letters: Producer,
        dead_letter_topic: str,
        service: str,
        group: str,
        backoff: Backoff = DEFAULT_BACKOFF,
        bug_tries_max: int = 5,
    ) -> None:
        self._subscription = subscription
        self._handlers = handlers
        self._dead_letters = dead_letters
        self._dead_letter_topic = dead_letter_topic
        self._service = service
        self._group = group
        self._backoff = backoff
        self._bug_tries_max = bug_tries_max
        self._lanes: dict[TopicPartition, _Lane] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Consume until `stopping` is set; then finish the tries in hand and return.

        A subscription that can't go on ends it, in an exception group: a new process joins anew.
        """
        lag_due = 0.0
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            try:
                while not stopping.is_set():
                    records = await self._subscription.poll(
                        records_max=POLL_RECORDS_MAX, wait_s=_POLL_S
                    )
                    self._follow_assignment(tasks)
                    for record in records:
                        if lane := self._lanes.get(record.origin):
                            lane.put(record)
                    await self._pause_and_resume()
                    if loop.time() >= lag_due:
                        await self._report_lag()
                        lag_due = loop.time() + _LAG_INTERVAL_S
            finally:
                for lane in self._lanes.values():
                    lane.stop()

    def _follow_assignment(self, tasks: asyncio.TaskGroup) -> None:
        """Stop the lanes of partitions that went away, begin one for each that came."""
        assigned = self._subscription.assigned()
        for origin, lane in self._lanes.items():
            if origin not in assigned and not lane.is_stopped:
                lane.stop()
                telemetry.forget_lag(self._group, origin)
        for origin in sorted(assigned):
            previous = self._lanes.get(origin)
            if previous is None or previous.is_stopped:
                lane = self._lanes[origin] = _Lane(origin)
                tasks.create_task(self._work_off(lane, after=previous))

    async def _pause_and_resume(self) -> None:
        live = [lane for lane in self._lanes.values() if not lane.is_stopped]
        if full := [lane for lane in live if lane.is_full and not lane.is_paused]:
            await self._subscription.pause(lane.origin for lane in full)
        if free := [lane for lane in live if lane.has_room and lane.is_paused]:
            await self._subscription.resume(lane.origin for lane in free)
        for lane in (*full, *free):
            lane.is_paused = not lane.is_paused

    async def _report_lag(self) -> None:
        for origin, record_count in (await self._subscription.lag()).items():
            telemetry.CONSUMER_LAG.labels(self._group, *origin).set(record_count)

    async def _work_off(self, lane: _Lane, *, after: _Lane | None) -> None:
        """Bring the lane's records to their ends one by one, after an earlier assignment's last."""
        if after is not None:
            await after.ended.wait()
        try:
            while (record := await lane.head()) is not None:
                with telemetry.EVENT_SECONDS.labels(self._group, record.topic).time():
                    handled = await self._settle(lane, record)
                if handled is None:
                    return
                lane.drop_head()
                # Not when the partition was given anew: its topic may be another one by now.
                if self._lanes.get(lane.origin) is lane:
                    self._subscription.store(record.origin, record.offset + 1)
                telemetry.EVENTS_HANDLED.labels(self._group, record.topic, handled).inc()
        finally:
            lane.ended.set()

    async def _settle(self, lane: _Lane, record: ReceivedRecord) -> Handled | None:
        """Try until the record has come to an end; None when the lane was stopped before."""
        bug_count = 0
        for failure_count in itertools.count(1):
            outcome = await self._try(record)
            if isinstance(outcome, Handled):
                return outcome
            bug_count += outcome.is_bug
            if outcome.is_final or bug_count >= self._bug_tries_max:
                return await self._dead_letter(lane, record, outcome)
            if not await self._put_off(lane, record, outcome.error, failure_count):
                return None
        raise AssertionError("unreachable")

    async def _try(self, record: ReceivedRecord) -> Handled | _Failure:
        if record.value is None:
            return Handled.SKIPPED
        try:
            event = from_record(record)
        except Undecodable as error:
            return _Failure(error, is_final=True)
        if (handler := self._handlers.get(event.type)) is None:
            return Handled.SKIPPED
        with self._span(event) as span:
            try:
                await handler(event)
                return Handled.DONE
            except DuplicateEvent:
                return Handled.DUPLICATE
            except ModelyardError as error:
                failure = _Failure(error, is_final=not error.retryable)
            except (ConnectionError, TimeoutError) as error:  # the surroundings, not the event
                failure = _Failure(error)
            except Exception as error:  # noqa: BLE001 - a bug must not stop the partition for good
                failure = _Failure(error, is_bug=True)
            span.set_status(Status(StatusCode.ERROR))
            span.set_attribute("error.type", type(failure.error).__name__)
            return failure

    def _span(self, event: Event) -> AbstractContextManager[Span]:
        """Open the span of one try, a child of the event's creation: one trace for a job."""
        return tracer(__name__).start_as_current_span(
            f"process {event.topic}",
            context=context_from(event.traceparent),
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": event.topic,
                "messaging.destination.partition.id": str(event.partition),
                "messaging.consumer.group.name": self._group,
                "messaging.message.id": event.id,
                "messaging.kafka.message.key": event.key,
                "messaging.kafka.offset": event.offset,
                "cloudevents.event_type": event.type,
            },
        )

    async def _put_off(
        self, lane: _Lane, record: ReceivedRecord, error: Exception, failure_count: int
    ) -> bool:
        """Wait before the next try; False when the lane was stopped meanwhile."""
        telemetry.EVENT_RETRIES.labels(self._group, record.topic).inc()
        if failure_count == 1:
            logger.warning(
                "event put off", **place(record), error=type(error).__name__, cause=str(error)
            )
        return not await lane.is_stopped_within(self._backoff.pause_s(failure_count))

    async def _dead_letter(
        self, lane: _Lane, record: ReceivedRecord, failure: _Failure
    ) -> Handled | None:
        """Send the record to where people look at it; None when the lane was stopped before."""
        error_id = secrets.token_hex(8)
        logger.opt(exception=failure.error if failure.is_bug else None).error(
            "event dead-lettered",
            **place(record),
            error_id=error_id,
            reason=failure.reason,
            cause=str(failure.error),
        )
        letter = self._letter_of(record, failure, error_id)
        for failure_count in itertools.count(1):
            try:
                await self._dead_letters.send(letter)
                return Handled.DEAD_LETTERED
            except ModelyardError as error:
                if not await self._put_off(lane, record, error, failure_count):
                    return None
        raise AssertionError("unreachable")

    def _letter_of(self, record: ReceivedRecord, failure: _Failure, error_id: str) -> Record:
        """Return the record as it was, with headers that say where it lay and what went wrong."""
        added = {
            "dead_letter_topic": record.topic,
            "dead_letter_partition": str(record.partition),
            "dead_letter_offset": str(record.offset),
            "dead_letter_service": self._service,
            "dead_letter_group": self._group,
            "dead_letter_reason": failure.reason,
            "dead_letter_exception": type(failure.error).__name__,
            "dead_letter_message": "" if failure.is_bug else str(failure.error)[:_MESSAGE_MAX],
            "dead_letter_error_id": error_id,
        }
        headers = tuple((name, value.encode()) for name, value in added.items())
        return Record(
            self._dead_letter_topic, record.key or b"", record.value, record.headers + headers
        )


def place(record: ReceivedRecord) -> dict[str, object]:
    """Return the log fields that say where a record lies."""
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}
