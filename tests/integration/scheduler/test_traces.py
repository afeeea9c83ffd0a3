"""One trace a submission: its facts and its phases, whoever moved the job."""

from datetime import datetime

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.chassis.errors import Conflict
from tests.integration.scheduler.yard import Yard
from tests.unit.scheduler.builders import NOW, TRACEPARENT, later

_, TRACE_ID, PARENT_ID, _ = TRACEPARENT.split("-")


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Record spans for one test; the global provider can be set only once a process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


def of_submission(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """Return the direct children of the submission, by name."""
    return {
        span.name: span
        for span in spans.get_finished_spans()
        if span.parent is not None and f"{span.parent.span_id:016x}" == PARENT_ID
    }


def nanoseconds(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000_000


async def test_facts_are_children_of_the_submission_and_so_are_the_events(
    yard: Yard, spans: InMemorySpanExporter
) -> None:
    await yard.a_node()
    job = await yard.a_job()
    await yard.cycle()

    children = of_submission(spans)
    assert {"modelyard.job.queued.v1", "modelyard.job.admitted.v1"} <= children.keys()
    for event in await yard.events(job.id):
        _, trace_id, span_id, _ = event["traceparent"].split("-")
        fact = children[event["type"]].get_span_context()
        assert fact is not None
        assert (trace_id, span_id) == (TRACE_ID, f"{fact.span_id:016x}")


async def test_a_phase_is_a_span_from_its_first_to_its_last_instant(
    yard: Yard, spans: InMemorySpanExporter
) -> None:
    await yard.a_node()
    await yard.a_job()
    yard.clock.seconds = 5
    await yard.cycle()

    queued = of_submission(spans)["job queued"]
    assert (queued.start_time, queued.end_time) == (nanoseconds(NOW), nanoseconds(later(5)))


async def test_a_move_that_was_not_committed_leaves_no_phase(
    yard: Yard, spans: InMemorySpanExporter
) -> None:
    job = await yard.a_job()

    async def cancel_without_commit() -> None:
        async with yard.store(job.tenant) as tx:
            _, fact = job.cancelled(reason="x", at=tx.now)
            tx.emit(fact)
            raise Conflict("job", job.id)

    with pytest.raises(Conflict):
        await cancel_without_commit()
    assert "job queued" not in of_submission(spans)
