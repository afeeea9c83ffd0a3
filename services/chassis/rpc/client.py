"""Calls to other services.

Owns: what surrounds every call, outermost first: total deadline → retry → breaker → call, and what
it carries: the principal's token, the trace, the remaining time. Interceptors of streams only add
to a call's details and return the call as it is: one that awaits a call's end keeps the callee
working after the caller has left. Unary calls have none, for it would cost each one a task.

A guarded stream is often read by an async generator, whose steps may run in different contexts, and
which may be left at its `yield` for good. So its span never becomes the current one, and its call
ends with the block: gRPC would cancel it when the garbage collector comes by.

Always holds: nothing is called while a transaction is open in this task (ADR-0002); no unary call
without an end; no call, stream or not, outlives the call that it is part of; only idempotent calls
are repeated.
"""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar

import grpc
import grpc.aio
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from typing_extensions import override

from services.chassis.breaker import Breaker
from services.chassis.errors import DeadlineExceeded, ModelyardError
from services.chassis.retry import RetryBudget, RetryPolicy
from services.chassis.rpc import telemetry
from services.chassis.rpc.context import IDEMPOTENCY_KEY, deadline, principal
from services.chassis.rpc.deadline import Deadline
from services.chassis.rpc.identity import TokenSigner
from services.chassis.rpc.renewed_channel import RenewedChannel
from services.chassis.rpc.status import CODES, from_call_error, is_callees_fault
from services.chassis.settings import GrpcClientSettings
from services.chassis.telemetry.tracing import is_left_out, traceparent_of, tracer
from services.chassis.transaction_mark import in_transaction
from services.chassis.waiting import at_once

Response_co = TypeVar("Response_co", covariant=True)
Metadata = Sequence[tuple[str, str]]

# What the caller needs to report which call was late, instead of being cut off itself.
_MARGIN: Final = timedelta(milliseconds=20)
_FLOOR_S: Final = 0.005
# A call that was given less than this share of its time-out says nothing about the callee: else one
# caller in a hurry opens the breaker for all.
_FAIR_SHARE: Final = 0.5
# What grpc.aio writes over the status that came, when a message fails to be sent at the same time:
# of uploads that were refused midway up to one in ten (https://github.com/grpc/grpc/issues/36066).
_OVERWRITTEN: Final = "Internal error from Core"
# Without it a channel stays with the first of several addresses.
_SERVICE_CONFIG: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


class UnaryMethod(Protocol[Response_co]):
    """A stub's unary method."""

    def __call__(
        self, request: Any, /, *, timeout: float, metadata: Metadata
    ) -> Awaitable[Response_co]:
        """Call it."""
        ...


def idempotent(key: str | None) -> Metadata:
    """Return the metadata that makes a call repeatable; none without a key."""
    return () if key is None else ((IDEMPOTENCY_KEY, key),)


@asynccontextmanager
async def open_channel(
    settings: GrpcClientSettings, *, callee: str, signer: TokenSigner
) -> AsyncIterator[grpc.aio.Channel]:
    """Open a channel to a service whose calls carry token, trace and deadline.

    `callee` is the service's name: another one refuses what is signed for it.
    """
    carried = _Carried(signer, callee)
    limits = [
        ("grpc.max_receive_message_length", settings.message_bytes_max),
        ("grpc.max_send_message_length", settings.message_bytes_max),
        # A silent partition is noticed by a ping; without it a call hangs until its deadline.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # Retries live in one layer: ours, which asks the error and has a budget.
        ("grpc.enable_retries", 0),
        ("grpc.service_config", _SERVICE_CONFIG),
    ]
    how: Any = {
        "options": limits,
        "interceptors": [_UnaryStream(carried), _StreamUnary(carried)],
    }
    channel: Any = (
        grpc.aio.insecure_channel(settings.address, **how)
        if settings.tls is None
        else RenewedChannel(partial(grpc.aio.secure_channel, settings.address, **how), settings.tls)
    )
    bare: Callable[..., Any] = channel.unary_unary

    def unary_unary(path: str, *args: Any, **options: Any) -> Any:
        return _Unary(path.lstrip("/"), bare(path, *args, **options), carried)

    channel.unary_unary = unary_unary
    try:
        yield channel
    finally:
        await channel.close()


@dataclass(frozen=True, slots=True)
class Edge:
    """One outbound edge: its breaker and its retries."""

    name: str
    breaker: Breaker
    retry: RetryPolicy

    @staticmethod
    def to(name: str) -> "Edge":
        """Return an edge with the usual bounds."""
        breaker = Breaker(
            name,
            failure_count_max=5,
            window=timedelta(seconds=10),
            reset_after=timedelta(seconds=2),
            counts=_counts,
        )
        return Edge(name, breaker, RetryPolicy(RetryBudget()))

    async def call(
        self,
        method: UnaryMethod[Response_co],
        request: Any,
        *,
        timeout: timedelta,
        idempotent: bool,
        metadata: Metadata = (),
    ) -> Response_co:
        """Return the answer; raises ModelyardError."""
        _refuse_in_transaction()
        timeout_s = timeout.total_seconds()
        until = Deadline(time.monotonic() + min(timeout_s, _inherited_s()))
        path = _path(method)

        async def once() -> Response_co:
            granted_s = until.remaining_s()
            with _Measured(path, is_current=True), self.breaker.calling():
                try:
                    return await method(request, timeout=granted_s, metadata=metadata)
                except grpc.aio.AioRpcError as error:
                    failure = from_call_error(error, callee=self.name)
                    is_hurried = granted_s < timeout_s * _FAIR_SHARE
                    if isinstance(failure, DeadlineExceeded) and is_hurried:
                        raise _TooLittleTime(self.name) from error
                    raise failure from error

        if idempotent:
            return await self.retry.run(once, until=until)
        return await once()

    @asynccontextmanager
    async def guard(self, path: str = "stream") -> AsyncIterator[None]:
        """Make a streaming call inside: breaker, error mapping, no retry; ends with the block."""
        _refuse_in_transaction()
        with _Measured(path) as span, self.breaker.calling():
            guarded, outer = _Guarded(span), _guarded.get()
            _guarded.set(guarded)
            try:
                yield
            except grpc.aio.AioRpcError as error:
                raise from_call_error(guarded.end(error), callee=self.name) from error
            finally:
                # Not reset by its token: this may be another context than the one above.
                _guarded.set(outer)
                for call in guarded.calls:
                    call.cancel()


class _Measured(AbstractContextManager[Span]):
    """A call's span and duration; a generator in its place would cost each call 3 us more.

    A span of its own is the current one meanwhile where that is asked for.
    """

    __slots__ = ("_is_current", "_path", "_span", "_started", "_token")

    def __init__(self, path: str, *, is_current: bool = False) -> None:
        self._path = path
        self._is_current = is_current
        self._token: Token[Context] | None = None

    @override
    def __enter__(self) -> Span:
        self._started = time.perf_counter()
        self._span, is_own = _span(self._path)
        if is_own and self._is_current:
            self._token = context.attach(trace.set_span_in_context(self._span))
        return self._span

    @override
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            context.detach(self._token)
        code = "OK" if error is None else self._told(error)
        self._span.set_attribute(telemetry.STATUS, code)
        self._span.end()
        telemetry.client_seconds(self._path, code).observe(time.perf_counter() - self._started)

    def _told(self, error: BaseException) -> str:
        """Return the code of what left the call; the span says more where it is a failure."""
        if isinstance(error, ModelyardError):
            if is_callees_fault(error):
                self._span.set_status(Status(StatusCode.ERROR, error.message))
            return CODES[error.code].name
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            return "CANCELLED"
        self._span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        return "UNKNOWN"


def _span(path: str) -> tuple[Span, bool]:
    """Return the call's span, and whether it is its own: where nothing is recorded it has none."""
    around = trace.get_current_span()
    if is_left_out(around):
        return around, False
    own = tracer(__name__).start_span(
        path,
        kind=SpanKind.CLIENT,
        attributes={telemetry.SYSTEM: "grpc", telemetry.METHOD: path},
    )
    return own, True


@dataclass(slots=True)
class _Guarded:
    """The calls made inside one `Edge.guard`."""

    span: Span
    calls: list[grpc.aio.Call] = field(default_factory=list)
    first_end: grpc.aio.AioRpcError | None = None

    def add(self, call: grpc.aio.Call) -> None:
        """Take a call in, and remember the status that comes for it first."""
        self.calls.append(call)
        call.add_done_callback(self._ended)

    def end(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Return what a call ended with, even if grpc.aio has lost it."""
        return self.first_end or error if error.details() == _OVERWRITTEN else error

    def _ended(self, call: grpc.aio.Call) -> None:
        self.first_end = grpc.aio.AioRpcError(
            code=at_once(call.code()),
            details=at_once(call.details()),
            trailing_metadata=at_once(call.trailing_metadata()),
        )


_guarded: ContextVar[_Guarded | None] = ContextVar("guarded", default=None)


@dataclass(frozen=True, slots=True)
class _Carried:
    """Adds what every call carries."""

    signer: TokenSigner
    callee: str

    def added(self, span: Span | None = None) -> Metadata:
        """Return token and trace."""
        token = ("authorization", f"Bearer {self.signer.token(principal(), self.callee)}")
        traceparent = traceparent_of(span or trace.get_current_span())
        return (token,) if traceparent is None else (token, ("traceparent", traceparent))

    def timeout_s(self, given: float | None) -> float | None:
        """Return the time that is left; None without an end."""
        timeout_s = min(math.inf if given is None else given, _inherited_s())
        return None if timeout_s == math.inf else timeout_s

    def details(
        self, given: grpc.aio.ClientCallDetails, span: Span | None = None
    ) -> grpc.aio.ClientCallDetails:
        """Return the details with token, trace and the time that is left."""
        return grpc.aio.ClientCallDetails(
            method=given.method,
            timeout=self.timeout_s(given.timeout),
            metadata=grpc.aio.Metadata(*(given.metadata or ()), *self.added(span)),
            credentials=given.credentials,
            wait_for_ready=given.wait_for_ready,
        )

    async def stream(
        self, continuation: Callable[..., Any], given: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        """Make a streaming call, as a part of the guard around it."""
        guarded = _guarded.get()
        if guarded is None:
            return await continuation(self.details(given), request)
        call = await continuation(self.details(given, guarded.span), request)
        guarded.add(call)
        return call


@dataclass(frozen=True, slots=True)
class _Unary:
    """A stub's unary method, whose calls carry it all."""

    path: str
    method: Any
    carried: _Carried

    def __call__(
        self, request: Any, /, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> Any:
        return self.method(
            request,
            timeout=self.carried.timeout_s(timeout),
            metadata=(*metadata, *self.carried.added()),
        )


@dataclass(frozen=True, slots=True)
class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    carried: _Carried

    @override
    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return await self.carried.stream(continuation, client_call_details, request)


@dataclass(frozen=True, slots=True)
class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    carried: _Carried

    @override
    async def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self.carried.stream(continuation, client_call_details, request_iterator)


class _TooLittleTime(DeadlineExceeded):
    """The deadline passed, and it was the caller's."""


def _counts(error: BaseException) -> bool:
    return is_callees_fault(error) and not isinstance(error, _TooLittleTime)


def _inherited_s() -> float:
    """Return what is left of the call that this one is part of; raises when that is too little."""
    inherited = deadline()
    if inherited is None:
        return math.inf
    left_s = inherited.remaining_s() - _MARGIN.total_seconds()
    if left_s < _FLOOR_S:
        raise _TooLittleTime("the caller")
    return left_s


def _refuse_in_transaction() -> None:
    assert not in_transaction.get(), "a remote call inside a transaction (ADR-0002)"


def _path(method: object) -> str:
    return method.path if isinstance(method, _Unary) else "call"
