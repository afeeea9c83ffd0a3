"""The envelope: what goes in comes out, and what is no event is told with a reason."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.events.envelope import (
    NewEvent,
    Undecodable,
    from_record,
    record_of,
    tombstone_of,
)
from services.chassis.events.ports import ReceivedRecord, Record
from services.chassis.tenancy import TenantId

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
EVENT = NewEvent(
    topic="modelyard.job.lifecycle.v1",
    key="job_1",
    type="modelyard.job.queued.v1",
    subject="jobs/job_1",
    tenant=TenantId("acme"),
    data=b"\x08\x01",
    dataschema="modelyard.scheduler.v1.JobTransitioned",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)


def received(record: Record) -> ReceivedRecord:
    return ReceivedRecord(record.topic, 3, 7, record.key, record.value, record.headers)


def sent(event: NewEvent = EVENT, *, time: datetime = AT) -> ReceivedRecord:
    return received(record_of(event, event_id="evt_1", source="/modelyard/scheduler", time=time))


def changed(**headers: str | bytes | None) -> ReceivedRecord:
    """Return the usual record with some headers replaced, or left out (None)."""
    by_name = dict(sent().headers)
    for name, value in headers.items():
        by_name[name.replace("content_type", "content-type")] = (
            value.encode() if isinstance(value, str) else value
        )
    kept = tuple((name, value) for name, value in by_name.items() if value is not None)
    return replace(sent(), headers=kept)


def test_an_event_carries_the_attributes_of_cloudevents() -> None:
    assert dict(sent().headers) == {
        "ce_id": b"evt_1",
        "ce_source": b"/modelyard/scheduler",
        "ce_specversion": b"1.0",
        "ce_type": b"modelyard.job.queued.v1",
        "ce_subject": b"jobs/job_1",
        "ce_time": b"2026-03-01T12:00:00.123456Z",
        "ce_dataschema": b"modelyard.scheduler.v1.JobTransitioned",
        "ce_tenant": b"acme",
        "content-type": b"application/protobuf",
        "traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }


def test_an_event_is_read_as_it_was_written() -> None:
    event = from_record(sent())

    assert (event.id, event.source, event.time) == ("evt_1", "/modelyard/scheduler", AT)
    assert (event.topic, event.key, event.partition, event.offset) == (EVENT.topic, "job_1", 3, 7)
    for name in ("type", "subject", "tenant", "data", "dataschema", "traceparent"):
        assert getattr(event, name) == getattr(EVENT, name)
    assert event.tracestate is None


@given(
    subject=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    key=st.text(st.characters(exclude_categories=["Cs"])),
    data=st.binary(),
)
def test_any_text_and_bytes_survive(subject: str, key: str, data: bytes) -> None:
    event = from_record(sent(replace(EVENT, subject=subject, key=key, data=data)))

    assert (event.subject, event.key, event.data) == (subject, key, data)


def test_a_time_is_written_in_utc() -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))

    assert dict(sent(time=elsewhere).headers)["ce_time"] == b"2026-03-01T12:00:00.123456Z"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (changed(ce_id=None), "ce_id is missing"),
        (changed(ce_type=""), "ce_type is missing"),
        (changed(ce_specversion="0.3"), "ce_specversion is 0.3, not 1.0"),
        (changed(content_type="application/json"), "content-type is application/json"),
        (changed(ce_time="yesterday"), "ce_time is no RFC 3339 time"),
        (changed(ce_time="2026-03-01T12:00:00"), "ce_time has no zone"),
        (changed(ce_tenant="Not A Tenant"), "ce_tenant: must be 1 to 40"),
        (changed(ce_subject=b"\xff"), "ce_subject is not UTF-8"),
        (replace(sent(), key=b"\xff"), "the key is not UTF-8"),
        (replace(sent(), value=None), "a tombstone holds no event"),
        (received(tombstone_of("topic", "key")), "ce_specversion is missing"),
    ],
)
def test_what_is_no_event_is_refused_with_a_reason(record: ReceivedRecord, reason: str) -> None:
    with pytest.raises(Undecodable) as caught:
        from_record(record)
    assert caught.value.reason.startswith(reason)


def test_headers_of_others_do_not_matter() -> None:
    record = replace(sent(), headers=(*sent().headers, ("theirs", b"\xff"), ("empty", None)))

    assert from_record(record).id == "evt_1"
