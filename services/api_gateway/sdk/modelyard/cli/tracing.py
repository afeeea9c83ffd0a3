"""One root span a command, handed to every call; a parent may come in `TRACEPARENT`."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


@contextmanager
def root_span(name: str, *, otlp_endpoint: str, service: str = "cli") -> Iterator[trace.Span]:
    """Run the block inside a span named `name`; its spans are sent before this returns."""
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    if otlp_endpoint:
        # A collector that is away is no concern of who typed the command.
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
        exporter = OTLPSpanExporter(endpoint=otlp_endpoint, insecure=True, timeout=3)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    parent = propagate.extract({"traceparent": os.environ.get("TRACEPARENT", "")})
    tracer = provider.get_tracer("modelyard.cli")
    try:
        with tracer.start_as_current_span(name, context=parent) as span:
            yield span
    finally:
        provider.shutdown()
