"""Domain values <-> `modelyard.logs.v1`, for RPCs and for events alike.

Owns: the only place where both are known, but for blocks, whose format is the store's; what is
unspecified or malformed is refused here.
"""

from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.logs.v1 import log_events_pb2, log_record_pb2, log_service_pb2

from services.chassis.errors import InvalidArgument
from services.chassis.events.envelope import NewEvent
from services.log_collector.domain.log_stream import LogStream, StreamState, StreamTransitioned
from services.log_collector.domain.records import (
    LogFilter,
    LogPosition,
    LogRecord,
    Mark,
    Source,
)

TOPIC: Final = "modelyard.log.stream.v1"

_STATES: Final = {
    StreamState.OPENED: log_events_pb2.LOG_STREAM_STATE_OPENED,
    StreamState.COMPLETED: log_events_pb2.LOG_STREAM_STATE_COMPLETED,
}
_SOURCES: Final = {
    Source.STDOUT: log_record_pb2.LOG_SOURCE_STDOUT,
    Source.STDERR: log_record_pb2.LOG_SOURCE_STDERR,
}
_CONTAINS_CHARACTERS_MAX: Final = 1024


def record_to_pb(stream: LogStream, record: LogRecord) -> log_record_pb2.LogRecord:
    """Return the message of a record of this stream."""
    return log_record_pb2.LogRecord(
        attempt_id=stream.attempt_id,
        attempt_number=stream.attempt_number,
        sequence=record.sequence,
        source=_SOURCES[record.source],
        time=_timestamp(record.time),
        text=record.text,
        cut=record.mark is Mark.CUT,
        corrupt=record.mark is Mark.CORRUPT,
        gap=record.mark is Mark.GAP,
    )


def position_to_pb(position: LogPosition) -> log_service_pb2.LogPosition:
    """Return a position's message."""
    return log_service_pb2.LogPosition(
        attempt_number=position.attempt_number, sequence=position.sequence
    )


def position_from_pb(message: log_service_pb2.LogPosition) -> LogPosition:
    """Return a position; an absent one is the beginning. Raises InvalidArgument."""
    if message.attempt_number < 0 or message.sequence < 0:
        raise InvalidArgument("after", "must not be negative")
    return LogPosition(message.attempt_number, message.sequence)


def filter_from_pb(message: log_service_pb2.LogFilter) -> LogFilter:
    """Return a filter. Raises InvalidArgument."""
    if len(message.contains) > _CONTAINS_CHARACTERS_MAX:
        raise InvalidArgument("filter.contains", f"at most {_CONTAINS_CHARACTERS_MAX} characters")
    if message.attempt_number < 0:
        raise InvalidArgument("filter.attempt_number", "must not be negative")
    return LogFilter(
        contains=message.contains or None,
        source=_source_from_pb(message.source),
        attempt_number=message.attempt_number or None,
        since=_time_from_pb(message.since, "since") if message.HasField("since") else None,
        until=_time_from_pb(message.until, "until") if message.HasField("until") else None,
    )


def event_of(fact: StreamTransitioned) -> NewEvent:
    """Return the event that tells others of a fact; its trace is the job's or deployment's."""
    stream = fact.stream
    message = log_events_pb2.LogStreamChanged(
        attempt_id=stream.attempt_id,
        tenant=stream.tenant,
        owner_id=stream.owner_id,
        state=_STATES[stream.state],
        record_count=stream.record_count,
        at=_timestamp(fact.at),
    )
    return NewEvent(
        topic=TOPIC,
        key=stream.attempt_id,
        type=f"modelyard.log-stream.{stream.state}.v1",
        subject=stream.attempt_id,
        tenant=stream.tenant,
        data=message.SerializeToString(deterministic=True),
        dataschema=message.DESCRIPTOR.full_name,
        traceparent=stream.traceparent,
    )


def _source_from_pb(source: int) -> Source | None:
    if source == log_record_pb2.LOG_SOURCE_UNSPECIFIED:
        return None
    for known, number in _SOURCES.items():
        if number == source:
            return known
    raise InvalidArgument("filter.source", "is not known")


def _time_from_pb(timestamp: Timestamp, field: str) -> datetime:
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except ValueError as error:
        raise InvalidArgument(f"filter.{field}", "is outside of what can be told") from error


def _timestamp(at: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(at)
    return timestamp
