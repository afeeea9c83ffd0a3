"""One trace over all hops."""

from typing import Any

import pytest
from modelyard.scheduler.v1 import job_service_pb2 as pb
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from services.chassis.errors import Internal, NotFound
from services.chassis.rpc.context import Context, acting_as
from services.chassis.telemetry.tracing import context_from, tracer
from tests.integration.chassis_rpc.test_errors import failing
from tests.integration.chassis_rpc.yard import ANNA, Handlers, Yard

GET_JOB = "modelyard.scheduler.v1.JobService/GetJob"


def chain(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    """Return the spans from the root down; fails when one is no child of the one before."""
    by_parent = {
        span.parent.span_id if span.parent else 0: span for span in spans.get_finished_spans()
    }
    found = [by_parent.pop(0)]
    while by_parent:
        found.append(by_parent.pop(found[-1].context.span_id))
    return found


async def test_two_hops_are_one_chain_of_spans_without_an_orphan(
    yard: Yard, spans: InMemorySpanExporter
) -> None:
    far = await yard.serving(Handlers())
    to_far = await yard.client(far.port)

    async def forward(request: Any, context: Context) -> Any:
        return await to_far.get_job()

    near = await yard.serving(Handlers(get_job=forward))
    client = await yard.client(near.port)

    with acting_as(ANNA), tracer("tests").start_as_current_span("request"):
        await client.get_job()

    found = chain(spans)
    assert [(span.name, span.kind) for span in found] == [
        ("request", SpanKind.INTERNAL),
        (GET_JOB, SpanKind.CLIENT),
        (GET_JOB, SpanKind.SERVER),
        (GET_JOB, SpanKind.CLIENT),
        (GET_JOB, SpanKind.SERVER),
    ]
    assert len({span.context.trace_id for span in found}) == 1


async def test_a_trace_that_is_not_recorded_travels_on_without_spans(
    yard: Yard, spans: InMemorySpanExporter
) -> None:
    seen = []

    async def remember(_request: Any, context: Context) -> Any:
        seen.append(dict(context.invocation_metadata() or ())["traceparent"])
        return pb.GetJobResponse()

    server = await yard.serving(Handlers(get_job=remember))
    client = await yard.client(server.port)
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"

    around = trace.get_current_span(context_from(traceparent))
    with acting_as(ANNA), trace.use_span(around):
        await client.get_job()

    assert seen == [traceparent]
    assert spans.get_finished_spans() == ()


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (NotFound("job", "job_1"), "NOT_FOUND", StatusCode.UNSET),
        (ValueError("hunter2"), "INTERNAL", StatusCode.ERROR),
    ],
)
async def test_spans_tell_how_the_call_ended(
    yard: Yard, spans: InMemorySpanExporter, error: Exception, code: str, status: StatusCode
) -> None:
    server = await yard.serving(Handlers(get_job=failing(error)))
    client = await yard.client(server.port)

    with acting_as(ANNA), pytest.raises((NotFound, Internal)):
        await client.get_job()

    for span in chain(spans):
        assert span.attributes is not None
        assert span.attributes["rpc.response.status_code"] == code
        assert span.status.status_code is status
        assert "hunter2" not in str(span.status.description)
    assert not trace.get_current_span().get_span_context().is_valid
