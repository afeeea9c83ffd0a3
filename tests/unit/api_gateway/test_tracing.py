"""What a reader of a trace learns of a request, and what of one that is not recorded goes on."""

import asyncio
from collections.abc import Sequence
from functools import partial

import httpx
import pytest
from loguru import logger
from modelyard.scheduler.v1 import job_service_pb2
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanContext, SpanKind, StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api_gateway.domain.api_key import ApiKey
from services.api_gateway.entrypoints.rest.app import build_app
from services.api_gateway.entrypoints.rest.tracing import UNTRACED, Tracing
from services.chassis.errors import Unavailable
from services.chassis.ids import TimeOrderedIds
from services.chassis.telemetry.tracing import current_traceparent, is_drawn, trace_id_of
from tests.unit.api_gateway.edge import Edge, client_of

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"


class Traced:
    """An application whose spans are kept."""

    def __init__(self, app: ASGIApp, sampler: Sampler = ALWAYS_ON) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=ParentBased(sampler))
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.app = Tracing(app, provider.get_tracer("test"), draw=partial(is_drawn, provider))

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    @property
    def span(self) -> ReadableSpan:
        (span,) = self.spans
        return span

    def client(self, *, key: str | None = None) -> httpx.AsyncClient:
        return client_of(self.app, key=key)


def traced(edge: Edge, sampler: Sampler = ALWAYS_ON) -> Traced:
    return Traced(build_app(edge.gateway(), ids=TimeOrderedIds(edge.clock)), sampler)


async def test_a_request_is_a_server_span_with_the_stable_attributes() -> None:
    edge = Edge()
    gateway = traced(edge)
    async with gateway.client(key=await edge.key()) as client:
        await client.get("/v1/jobs?state=QUEUED")

    assert gateway.span.name == "GET /v1/jobs"
    assert gateway.span.kind is SpanKind.SERVER
    assert gateway.span.parent is None
    assert gateway.span.status.status_code is StatusCode.UNSET
    assert dict(gateway.span.attributes or {}) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/v1/jobs",
        "network.protocol.version": "1.1",
        "server.address": "edge",
        "server.port": 80,
        "url.path": "/v1/jobs",
        "url.query": "state=QUEUED",
        "url.scheme": "http",
    }


async def test_a_signature_in_a_query_is_no_attribute() -> None:
    edge = Edge()
    gateway = traced(edge)
    async with gateway.client(key=await edge.key()) as client:
        await client.get("/v1/jobs?state=QUEUED&sig=secret")

    assert (gateway.span.attributes or {})["url.query"] == "state=QUEUED&sig=REDACTED"


@pytest.mark.parametrize("path", sorted(UNTRACED))
async def test_health_and_metrics_have_no_spans(path: str) -> None:
    gateway = traced(Edge())
    async with gateway.client() as client:
        assert (await client.get(path)).status_code == 200
    assert gateway.spans == ()


async def test_a_path_that_is_no_route_does_not_become_a_span_name() -> None:
    edge = Edge()
    gateway = traced(edge)
    async with gateway.client(key=await edge.key()) as client:
        await client.get("/v1/nothing/here")
    assert gateway.span.name == "GET"
    assert (gateway.span.attributes or {})["http.response.status_code"] == 404
    assert gateway.span.status.status_code is StatusCode.UNSET


async def test_an_unknown_method_does_not_become_a_span_name() -> None:
    edge = Edge()
    gateway = traced(edge)
    async with gateway.client(key=await edge.key()) as client:
        await client.request("BREW", "/v1/jobs")
    attributes = gateway.span.attributes or {}
    assert gateway.span.name.partition(" ")[0] == "HTTP"
    assert attributes["http.request.method"] == "_OTHER"
    assert attributes["http.request.method_original"] == "BREW"


async def test_a_refusal_before_any_route_is_a_span_without_an_error() -> None:
    gateway = traced(Edge())
    async with gateway.client() as client:
        await client.get("/v1/jobs")
    assert (gateway.span.attributes or {})["http.response.status_code"] == 401
    assert gateway.span.status.status_code is StatusCode.UNSET


async def test_a_neighbour_that_is_away_is_an_error_of_the_span() -> None:
    edge = Edge()
    edge.jobs.error = Unavailable("scheduler")
    gateway = traced(edge)
    async with gateway.client(key=await edge.key()) as client:
        await client.get("/v1/jobs/job_7")
    assert (gateway.span.attributes or {})["error.type"] == "503"
    assert gateway.span.status.status_code is StatusCode.ERROR


async def test_a_bug_is_named_by_its_class_and_nothing_of_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(_: object) -> None:
        raise ZeroDivisionError("the tenant's secret")

    edge = Edge()
    monkeypatch.setattr(edge.jobs, "get", broken)
    gateway = traced(edge)
    async with gateway.client(key=await edge.key()) as client:
        assert (await client.get("/v1/jobs/job_7")).status_code == 500
    attributes = gateway.span.attributes or {}
    assert (attributes["error.type"], attributes["http.response.status_code"]) == (
        "ZeroDivisionError",
        500,
    )
    assert gateway.span.status.status_code is StatusCode.ERROR
    assert "secret" not in gateway.span.to_json()


@pytest.mark.parametrize("host", ["[::1", "a:b:c", "a:99999", ""])
async def test_a_host_header_that_is_no_address_harms_nothing(host: str) -> None:
    edge = Edge()
    gateway = traced(edge)
    async with gateway.client(key=await edge.key()) as client:
        answer = await client.get("/v1/jobs", headers={"host": host})
    assert answer.status_code == 200
    assert "server.address" not in (gateway.span.attributes or {})


async def test_the_span_continues_the_callers_trace() -> None:
    edge = Edge()
    gateway = traced(edge)
    async with gateway.client(key=await edge.key()) as client:
        await client.get("/v1/jobs", headers={"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"})
    parent = gateway.span.parent
    assert parent is not None
    assert f"{parent.trace_id:032x}-{parent.span_id:016x}" == f"{TRACE_ID}-{SPAN_ID}"
    assert gateway.span.context.trace_id == parent.trace_id


@pytest.mark.parametrize(
    ("scopes", "flag", "sampler", "is_recorded"),
    [
        (["jobs:read", "trace"], "01", ALWAYS_OFF, True),
        (["jobs:read", "trace"], "00", ALWAYS_ON, False),
        (["jobs:read"], "01", ALWAYS_OFF, False),
        (["jobs:read"], "00", ALWAYS_ON, True),
    ],
)
async def test_who_has_no_scope_trace_does_not_decide_whether_it_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
    scopes: list[str],
    flag: str,
    sampler: Sampler,
    is_recorded: bool,
) -> None:
    edge = Edge()
    inside = seen_inside(monkeypatch, edge)
    gateway = traced(edge, sampler)
    async with gateway.client(key=await edge.key(*scopes)) as client:
        headers = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-{flag}"}
        await client.get("/v1/jobs/job_7", headers=headers)

    assert [span.name for span in gateway.spans] == ["GET /v1/jobs/{job_id}"] * is_recorded
    assert [found.trace_flags.sampled for found in inside] == [is_recorded]
    assert [f"{found.trace_id:032x}" for found in inside] == [TRACE_ID]
    assert not trace.get_current_span().get_span_context().is_valid, "nothing stays behind"


async def test_a_trace_id_that_a_caller_chose_is_recorded_no_more_often_than_another() -> None:
    edge = Edge()
    gateway = traced(edge, TraceIdRatioBased(1e-15))
    async with gateway.client(key=await edge.key("jobs:read")) as client:
        await client.get("/v1/jobs", headers={"traceparent": f"00-{1 << 64:032x}-{SPAN_ID}-01"})
    assert gateway.spans == ()


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF])
@pytest.mark.parametrize("path", ["/v1/jobs", "/openapi.json"])
async def test_a_caller_that_stays_unknown_decides_nothing_either(
    sampler: Sampler, path: str
) -> None:
    gateway = traced(Edge(), sampler)
    async with gateway.client() as client:
        await client.get(path, headers={"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"})
    assert [f"{span.context.trace_id:032x}" for span in gateway.spans] == (
        [TRACE_ID] if sampler is ALWAYS_ON else []
    )


async def test_nothing_is_recorded_of_a_caller_that_is_not_known_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edge = Edge()
    find_key, seen = edge.keys.find_key, []

    async def find(key_id: str) -> ApiKey | None:
        seen.append(trace.get_current_span().get_span_context())
        return await find_key(key_id)

    monkeypatch.setattr(edge.keys, "find_key", find)
    gateway = traced(edge)
    async with gateway.client(key=await edge.key()) as client:
        await client.get("/v1/jobs", headers={"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"})
    assert [(f"{found.trace_id:032x}", found.trace_flags.sampled) for found in seen] == [
        (TRACE_ID, False)
    ]


async def test_a_bug_is_logged_within_the_trace_that_is_continued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(_: object) -> None:
        raise ZeroDivisionError

    edge = Edge()
    monkeypatch.setattr(edge.jobs, "get", broken)
    gateway = traced(edge)
    logged: list[str | None] = []
    sink = logger.add(lambda _: logged.append(current_traceparent()), level="ERROR")
    async with gateway.client(key=await edge.key()) as client:
        headers = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}
        assert (await client.get("/v1/jobs/job_7", headers=headers)).status_code == 500
    logger.remove(sink)
    assert [trace_id_of(each) for each in logged] == [TRACE_ID]
    assert (gateway.span.attributes or {})["http.response.status_code"] == 500


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [(None, None), (f"00-{TRACE_ID}-{SPAN_ID}-00", TRACE_ID), ("no traceparent", None)],
)
async def test_a_trace_that_is_not_recorded_goes_on_inside_without_a_span(
    traceparent: str | None, trace_id: str | None
) -> None:
    inside = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        inside.append((trace.get_current_span().get_span_context(), baggage.get_all()))
        await answer(send, b"ok")

    left_out = Traced(app, sampler=ALWAYS_OFF)
    headers = {"baggage": "a=b"} | ({} if traceparent is None else {"traceparent": traceparent})
    async with left_out.client() as client:
        await client.get("/", headers=headers)

    ((found, carried),) = inside
    assert left_out.spans == ()
    assert found.is_valid
    assert not found.trace_flags.sampled
    assert trace_id in (None, f"{found.trace_id:032x}")
    assert carried == {"a": "b"}
    assert not trace.get_current_span().get_span_context().is_valid, "nothing stays behind"


async def test_a_streams_span_ends_with_its_last_part() -> None:
    ended_before_last = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(send)
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        ended_before_last.append(stream.spans)
        await send({"type": "http.response.body", "body": b"2"})

    stream = Traced(app)
    async with stream.client() as client:
        assert (await client.get("/")).content == b"12"
    assert ended_before_last == [()]
    assert stream.span.status.status_code is StatusCode.UNSET


async def test_a_stream_that_its_reader_leaves_is_marked_as_incomplete() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(send)
        await send({"type": "http.response.body", "body": b"1", "more_body": True})

    stream = Traced(app)
    await called(stream.app)
    assert (stream.span.attributes or {})["error.type"] == "incomplete_response"
    assert stream.span.status.status_code is StatusCode.ERROR


async def test_a_request_that_is_cut_off_has_its_span_all_the_same() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    cut = Traced(app)
    running = asyncio.ensure_future(called(cut.app))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (cut.span.attributes or {})["error.type"] == "asyncio.exceptions.CancelledError"


def seen_inside(monkeypatch: pytest.MonkeyPatch, edge: Edge) -> list[SpanContext]:
    """Return where what a request asks of the scheduler finds itself."""
    get, found = edge.jobs.get, []

    async def observed(request: job_service_pb2.GetJobRequest) -> job_service_pb2.GetJobResponse:
        found.append(trace.get_current_span().get_span_context())
        return await get(request)

    monkeypatch.setattr(edge.jobs, "get", observed)
    return found


async def begin(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def answer(send: Send, body: bytes) -> None:
    await begin(send)
    await send({"type": "http.response.body", "body": body})


async def called(app: ASGIApp) -> None:
    """Call an application as a server does whose client goes away."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "scheme": "http",
        "http_version": "1.1",
        "query_string": b"",
        "headers": [],
    }

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        """Take it."""

    await app(scope, receive, send)
