"""Spans from text and back, and spans that are written afterwards."""

from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.chassis.telemetry import tracing
from services.chassis.telemetry.tracing import (
    context_from,
    current_traceparent,
    is_left_out,
    links_to,
    record_span,
    trace_id_of,
    traceparent_of,
)

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The process's provider can be set once, so this module is given its own."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "tracer", provider.get_tracer)
    return exporter


def test_outside_of_a_span_there_is_no_traceparent() -> None:
    assert current_traceparent() is None
    assert traceparent_of(trace.INVALID_SPAN) is None


def test_a_traceparent_names_the_current_span() -> None:
    with TracerProvider().get_tracer("tests").start_as_current_span("request") as span:
        traceparent = current_traceparent()

    assert traceparent is not None
    assert traceparent == traceparent_of(span)
    assert trace_id_of(traceparent) == trace.format_trace_id(span.get_span_context().trace_id)


def test_a_context_from_text_is_that_text_again() -> None:
    span = trace.get_current_span(context_from(TRACEPARENT))

    assert span.get_span_context().is_remote
    assert traceparent_of(span) == TRACEPARENT


def test_a_trace_is_left_out_when_nobody_records_it() -> None:
    unsampled = trace.get_current_span(context_from(f"{TRACEPARENT[:-2]}00"))
    sampled = trace.get_current_span(context_from(TRACEPARENT))
    assert [is_left_out(span) for span in (unsampled, sampled, trace.INVALID_SPAN)] == [
        True,
        False,
        False,
    ]
    assert traceparent_of(unsampled) == f"{TRACEPARENT[:-2]}00"


def test_links_are_to_traces_that_are_recorded() -> None:
    own = traceparent_of(TracerProvider().get_tracer("tests").start_span("request"))
    others = (None, "", f"{TRACEPARENT[:-2]}00", f"{TRACEPARENT[:-2]}02")
    assert [link.context.is_remote for link in links_to([own, TRACEPARENT, *others])] == [True] * 2


@pytest.mark.parametrize("text", [None, "", "garbage", f"00-{'0' * 32}-b7ad6b7169203331-01"])
def test_text_that_is_no_traceparent_begins_a_new_trace(text: str | None) -> None:
    with TracerProvider().get_tracer("tests").start_as_current_span("unrelated"):
        span = trace.get_current_span(context_from(text))

    assert not span.get_span_context().is_valid
    assert trace_id_of(text) == ""


def test_a_span_written_afterwards_has_its_own_times_and_parent(
    spans: InMemorySpanExporter,
) -> None:
    started_at = datetime(2030, 1, 1, tzinfo=UTC)

    with TracerProvider().get_tracer("tests").start_as_current_span("a loop's own"):
        record_span(
            "queued",
            parent=TRACEPARENT,
            started_at=started_at,
            ended_at=started_at + timedelta(seconds=90),
            attributes={"modelyard.job.id": "job_1"},
        )

    (span,) = spans.get_finished_spans()
    assert span.name == "queued"
    assert span.parent is not None
    assert trace.format_trace_id(span.parent.trace_id) == TRACE_ID
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time == 90 * 10**9
    assert dict(span.attributes or {}) == {"modelyard.job.id": "job_1"}
