"""Spans: one provider a process, and the few moves that the services need.

Owns: setting up the OpenTelemetry SDK with an OTLP exporter, and turning `traceparent` text into a
context and back. A span that is written afterwards, such as a job's phase, gets its times
explicitly.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from services.chassis.settings import TelemetrySettings

_PROPAGATOR: Final = TraceContextTextMapPropagator()
# At 5,000 spans a second the SDK's own bound, 2,048, would be reached in half a second of a slow
# backend.
_QUEUE_SPANS_MAX: Final = 16_384
_EXPORT_DELAY_MS: Final = 500
_FLUSH_MAX_S: Final = 3.0
_LINKS_MAX: Final = 64
_SAMPLED: Final = frozenset("13579bdf")
"""How flags end whose lowest bit is set."""
_NANOSECONDS: Final = 1_000_000_000


@contextmanager
def open_tracing(service_name: str, settings: TelemetrySettings) -> Iterator[TracerProvider]:
    """Set up tracing for this process; spans are sent before the context closes.

    A backend that does not answer then is given up after three seconds.
    """
    provider = TracerProvider(
        resource=Resource.create({"service.name": service_name}),
        sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
    )
    trace.set_tracer_provider(provider)
    if settings.otlp_endpoint is None:
        yield provider
        return
    exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=True, timeout=5)
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=_QUEUE_SPANS_MAX,
            schedule_delay_millis=_EXPORT_DELAY_MS,
        )
    )
    try:
        yield provider
    finally:
        # The SDK takes no bound: a few batches for a silent backend took it 19 s, which the process
        # would lack for leaving in order.
        give_up = threading.Timer(_FLUSH_MAX_S, exporter.shutdown)
        give_up.start()
        provider.shutdown()
        give_up.cancel()


def is_drawn(provider: TracerProvider) -> bool:
    """Tell whether a trace would be recorded that began here: by an id of ours.

    The sampler goes by the id alone, so a trace's own would leave it to whoever has chosen it.
    """
    drawn = provider.id_generator.generate_trace_id()
    result = provider.sampler.should_sample(Context(), drawn, "")
    return result.decision is Decision.RECORD_AND_SAMPLE


def tracer(name: str) -> trace.Tracer:
    """Return a tracer of the process's provider, or one that does nothing before it is set up."""
    return _tracer(trace.get_tracer_provider(), name)


@lru_cache(maxsize=64)  # modules that trace
def _tracer(provider: trace.TracerProvider, name: str) -> trace.Tracer:
    """Ask the provider once: each time it changes the filters of Python's warnings, for 12 us."""
    return provider.get_tracer(name)


def current_traceparent() -> str | None:
    """Return the current span's `traceparent`, or None outside of any."""
    return traceparent_of(trace.get_current_span())


def traceparent_of(span: trace.Span) -> str | None:
    """Return a span's `traceparent`, or None for one that does nothing.

    Written here: the SDK's propagator takes a context and a carrier for it, at five times the cost.
    """
    found = span.get_span_context()
    if not found.is_valid:
        return None
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def is_left_out(span: trace.Span) -> bool:
    """Tell whether a span's trace is not recorded: its children need not be made."""
    found = span.get_span_context()
    return found.is_valid and not found.trace_flags.sampled and not span.is_recording()


@lru_cache(maxsize=256)  # what one commit tells of an aggregate has one parent
def context_from(traceparent: str | None) -> Context:
    """Return a context whose current span is the remote one; an empty context without one."""
    carrier = {} if traceparent is None else {"traceparent": traceparent}
    return _PROPAGATOR.extract(carrier, context=Context())


def links_to(traceparents: Iterable[str | None]) -> list[Link]:
    """Return links to those that are recorded, as many as a span takes without cutting."""
    contexts = (
        trace.get_current_span(context_from(traceparent)).get_span_context()
        for traceparent in traceparents
        if traceparent is not None and traceparent[-1:] in _SAMPLED
    )
    return [Link(context) for context in islice(contexts, _LINKS_MAX)]


def trace_id_of(traceparent: str | None) -> str:
    """Return the 32 hexadecimal digits of the trace, or "" without one."""
    span = trace.get_current_span(context_from(traceparent)).get_span_context()
    return trace.format_trace_id(span.trace_id) if span.is_valid else ""


def record_span(
    name: str,
    *,
    parent: str | None,
    started_at: datetime,
    ended_at: datetime,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> None:
    """Write a span that is over, as a child of `parent`."""
    span = tracer(__name__).start_span(
        name,
        context=context_from(parent),
        start_time=int(started_at.timestamp() * _NANOSECONDS),
        attributes=attributes,
    )
    span.end(end_time=int(ended_at.timestamp() * _NANOSECONDS))
