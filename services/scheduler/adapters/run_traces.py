"""Runs in their submissions' traces: `RunTraces` on OpenTelemetry."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import context

from services.chassis.telemetry.tracing import context_from, record_span
from services.scheduler.use_cases.attempts.ports import RunSpan

CONTAINER_RUN: Final = "container run"


class TelemetryRunTraces:
    """Writes to the process's trace provider."""

    @contextmanager
    def under(self, traceparent: str | None) -> Iterator[None]:
        """Make what is called in this block part of a submission's trace."""
        token = context.attach(context_from(traceparent))
        try:
            yield
        finally:
            context.detach(token)

    def record(self, span: RunSpan) -> None:
        """Write a span with explicit times."""
        record_span(
            CONTAINER_RUN,
            parent=span.traceparent,
            started_at=span.started_at,
            ended_at=span.ended_at,
            attributes=span.attributes,
        )
