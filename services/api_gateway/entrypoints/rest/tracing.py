"""A span for each request whose trace is recorded; next to nothing for the others.

Owns: the gateway's server span: its parent, name, attributes and end, by OpenTelemetry's stable
conventions for HTTP (https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server-span).
The sampler is asked first; of a request that it leaves out nothing is looked at, and its calls
inward carry the trace's id all the same (ADR-0024).

A request may continue its caller's trace. Whether that is recorded says the caller only if it has
the scope `trace`, so the span begins once the caller is known, and nothing before that is recorded.

Always holds: a recorded span ends when the answer has, a stream's with its last byte, an aborted
one's when that is noticed. Bodies and stack traces stay out of it: they may hold a tenant's data.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
)
from opentelemetry.util.types import AttributeValue
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from services.chassis.tenancy import Principal

UNTRACED: Final = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
"""Asked every few seconds, by machines."""

_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
_OTHER_METHOD: Final = "_OTHER"
_PORTS: Final = {"http": 80, "https": 443}
# What the conventions name: signatures of links that open something by themselves.
_REDACTED: Final = frozenset(
    {"X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "sig", "X-Goog-Signature"}
)
_CARRIED: Final = frozenset({b"traceparent", b"baggage"})
_DECIDES: Final = "trace"
"""The scope of those whose `traceparent` says whether their trace is recorded."""
_CONTINUED: Final = "modelyard.continued"


@dataclass(frozen=True, slots=True)
class Tracing:
    """Runs the application within a span, or within a trace that is not recorded."""

    app: ASGIApp
    tracer: Tracer
    draw: Callable[[], bool]
    """Decides whether a trace is recorded that a caller has begun who may not say so."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self.app(scope, receive, send)
            return
        parent = _parent_of(scope)
        if parent and trace.get_current_span(parent) is not INVALID_SPAN:
            await _Continued(self, scope, parent).run(scope, receive, send)
            return
        span = self.tracer.start_span(_method_of(scope), context=parent, kind=SpanKind.SERVER)
        token = context.attach(trace.set_span_in_context(span, parent))
        try:
            if span.is_recording():
                await _Recorded(self.app, span).run(scope, receive, send)
            else:
                await self.app(scope, receive, send)
        finally:
            context.detach(token)


def caller_is_known(scope: Scope, principal: Principal) -> None:
    """Let a request that continues its caller's trace begin its span, in the request's own task."""
    request = scope.get(_CONTINUED)
    if request is not None:
        assert isinstance(request, _Continued)
        request.begin(is_callers_decision=_DECIDES in principal.scopes)


def _parent_of(scope: Scope) -> Context:
    """Return what the request is part of, as its headers say."""
    if not any(name in _CARRIED for name, _ in scope["headers"]):
        return Context()
    return propagate.extract(Headers(scope=scope), context=Context())


def _decided(parent: Context, *, is_recorded: bool) -> Context:
    """Return what a request is part of with our own decision instead of the caller's."""
    theirs = trace.get_current_span(parent).get_span_context()
    ours = SpanContext(
        theirs.trace_id,
        theirs.span_id,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if is_recorded else TraceFlags.DEFAULT),
        trace_state=theirs.trace_state,
    )
    return trace.set_span_in_context(NonRecordingSpan(ours), parent)


class _Recorded:
    """One request with its span."""

    def __init__(self, app: ASGIApp, span: Span) -> None:
        self._app = app
        self._span = span
        self._status = 0  # none yet
        self._is_answered = False

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it; the span ends with the answer."""

        async def observed(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                self._status = message["status"]
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                self._is_answered = True

        try:
            await self._app(scope, receive, observed)
        except BaseException as error:
            self._end(scope, failure=_name_of(type(error)))
            raise
        self._end(scope, failure=self._failure())

    def _failure(self) -> str | None:
        """Return the conventions' `error.type`, None for an answer that is as it should be."""
        if not self._is_answered:
            return "incomplete_response"
        return str(self._status) if self._status >= 500 else None

    def _end(self, scope: Scope, *, failure: str | None) -> None:
        if not self._span.is_recording():
            return
        self._span.set_attributes(_request_attributes(scope))
        if self._status:
            self._span.set_attribute("http.response.status_code", self._status)
        route = getattr(scope.get("route"), "path_format", None)
        if route is not None:
            self._span.set_attribute("http.route", route)
            self._span.update_name(f"{_method_of(scope)} {route}")
        if failure is not None:
            self._span.set_attribute("error.type", failure)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class _Continued(_Recorded):
    """One that continues its caller's trace; its span begins when it is known who that is."""

    def __init__(self, tracing: Tracing, scope: Scope, parent: Context) -> None:
        super().__init__(tracing.app, INVALID_SPAN)
        self._tracing = tracing
        self._scope = scope
        self._parent = parent
        self._arrived_at_ns = time.time_ns()

    @override
    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_CONTINUED] = self
        token = context.attach(_decided(self._parent, is_recorded=False))
        try:
            await super().run(scope, receive, send)
        finally:
            context.detach(token)

    def begin(self, *, is_callers_decision: bool) -> None:
        """Begin the span, which is the current one until `run` ends."""
        parent = self._parent
        if not is_callers_decision:
            parent = _decided(parent, is_recorded=self._tracing.draw())
        self._span = self._tracing.tracer.start_span(
            _method_of(self._scope),
            context=parent,
            kind=SpanKind.SERVER,
            start_time=self._arrived_at_ns,
        )
        context.attach(trace.set_span_in_context(self._span, parent))

    @override
    def _end(self, scope: Scope, *, failure: str | None) -> None:
        if self._span is INVALID_SPAN:  # refused before, or a page for everybody
            self.begin(is_callers_decision=False)
        super()._end(scope, failure=failure)


def _method_of(scope: Scope) -> str:
    """Return what begins the span's name."""
    return scope["method"] if scope["method"] in _METHODS else "HTTP"


def _request_attributes(scope: Scope) -> Mapping[str, AttributeValue]:
    method = scope["method"]
    attributes: dict[str, AttributeValue] = {
        "http.request.method": method if method in _METHODS else _OTHER_METHOD,
        "network.protocol.version": scope["http_version"],
        "url.scheme": scope["scheme"],
        "url.path": scope["path"],
    }
    if method not in _METHODS:
        attributes["http.request.method_original"] = method
    if scope["query_string"]:
        attributes["url.query"] = _query_of(scope)
    return {**attributes, **_server_attributes(scope)}


def _query_of(scope: Scope) -> str:
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return urlencode([(name, "REDACTED" if name in _REDACTED else value) for name, value in pairs])


def _server_attributes(scope: Scope) -> Mapping[str, AttributeValue]:
    """Return whom the caller named as the server; nothing where that is no address."""
    try:
        named = urlsplit("//" + Headers(scope=scope).get("host", ""))
        address, port = named.hostname, named.port or _PORTS.get(scope["scheme"])
    except ValueError:
        return {}
    if address is None or port is None:
        return {}
    return {"server.address": address, "server.port": port}


def _name_of(kind: type[BaseException]) -> str:
    is_plain = kind.__module__ == "builtins"
    return kind.__qualname__ if is_plain else f"{kind.__module__}.{kind.__qualname__}"
