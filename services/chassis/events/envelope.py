"""The envelope of every event: CloudEvents 1.0, Kafka binding, binary mode.

Owns: attributes <-> headers. The value is the protobuf message as it is, so a reader can route
without decoding. Leaves the meaning of types and data to the services.
Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
Always holds: `from_record(record_of(event))` gives the event back; what lacks an attribute or
carries a malformed one is `Undecodable`, never a half-filled event.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from services.chassis.errors import InvalidArgument
from services.chassis.events.ports import Headers, ReceivedRecord, Record
from services.chassis.tenancy import TenantId, tenant_id

CONTENT_TYPE: Final = "application/protobuf"
_SPEC_VERSION: Final = "1.0"


class Undecodable(Exception):
    """The record is no event of ours; `reason` is a short sentence for the dead letter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A fact to publish; the outbox adds id, source and time in the same commit.

    `key` is the aggregate's id and decides the order; `data` is a serialized protobuf message
    named by `dataschema`; `traceparent` is the span under which the fact came to be.
    """

    topic: str
    key: str
    type: str
    subject: str
    tenant: TenantId
    data: bytes
    dataschema: str
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A fact that was read: what happened, whose it is, and where it lay."""

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    tenant: TenantId
    dataschema: str
    data: bytes
    traceparent: str | None
    tracestate: str | None
    topic: str
    key: str
    partition: int
    offset: int


def to_headers(
    event: NewEvent,
    *,
    event_id: str,
    source: str,
    time: datetime,
    tracestate: str | None = None,
) -> Headers:
    """Return the headers of a new event: CloudEvents attributes, content type, trace context."""
    attributes = {
        "ce_id": event_id,
        "ce_source": source,
        "ce_specversion": _SPEC_VERSION,
        "ce_type": event.type,
        "ce_subject": event.subject,
        "ce_time": time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "ce_dataschema": event.dataschema,
        "ce_tenant": event.tenant,
        "content-type": CONTENT_TYPE,
        "traceparent": event.traceparent,
        "tracestate": tracestate,
    }
    return tuple((name, value.encode()) for name, value in attributes.items() if value is not None)


def record_of(
    event: NewEvent,
    *,
    event_id: str,
    source: str,
    time: datetime,
    tracestate: str | None = None,
) -> Record:
    """Return the record to send for an event that the outbox has given its id and time."""
    headers = to_headers(event, event_id=event_id, source=source, time=time, tracestate=tracestate)
    return Record(event.topic, event.key.encode(), event.data, headers)


def tombstone_of(topic: str, key: str) -> Record:
    """Return the record with which a compacted topic forgets a key."""
    return Record(topic, key.encode(), None)


def from_headers(headers: Headers) -> dict[str, str]:
    """Return the headers that are text, by name; of a repeated name the last one counts.

    Raises Undecodable for an attribute that is not UTF-8.
    """
    attributes = {}
    for name, value in headers:
        try:
            attributes[name] = (value or b"").decode()
        except UnicodeDecodeError as error:
            if name.startswith("ce_"):
                raise Undecodable(f"{name} is not UTF-8") from error
    return attributes


def from_record(record: ReceivedRecord) -> Event:
    """Return the event in a record that is no tombstone. Raises Undecodable."""
    attributes = from_headers(record.headers)

    def required(name: str) -> str:
        if not (value := attributes.get(name)):
            raise Undecodable(f"{name} is missing")
        return value

    if (version := required("ce_specversion")) != _SPEC_VERSION:
        raise Undecodable(f"ce_specversion is {version}, not {_SPEC_VERSION}")
    if (content_type := required("content-type")) != CONTENT_TYPE:
        raise Undecodable(f"content-type is {content_type}, not {CONTENT_TYPE}")
    if record.value is None:
        raise Undecodable("a tombstone holds no event")
    return Event(
        id=required("ce_id"),
        source=required("ce_source"),
        type=required("ce_type"),
        subject=required("ce_subject"),
        time=_time(required("ce_time")),
        tenant=_tenant(required("ce_tenant")),
        dataschema=required("ce_dataschema"),
        data=record.value,
        traceparent=attributes.get("traceparent"),
        tracestate=attributes.get("tracestate"),
        topic=record.topic,
        key=_key(record.key),
        partition=record.partition,
        offset=record.offset,
    )


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise Undecodable("ce_time is no RFC 3339 time") from error
    if time.tzinfo is None:
        raise Undecodable("ce_time has no zone")
    return time.astimezone(UTC)


def _tenant(text: str) -> TenantId:
    try:
        return tenant_id(text, field="ce_tenant")
    except InvalidArgument as error:
        raise Undecodable(error.message) from error


def _key(key: bytes | None) -> str:
    try:
        return (key or b"").decode()
    except UnicodeDecodeError as error:
        raise Undecodable("the key is not UTF-8") from error
