"""Calls to other services.

Owns: what surrounds every call, outermost first: total deadline → retry → breaker → call, and what
it carries: the principal's token, the trace, the remaining time. Interceptors only add metadata and
return the call as it is: one that awaits a call's end keeps the callee working after the caller has
left.

Always holds: nothing is called while a transaction is open in this task (ADR-0002); no unary call
without an end; only idempotent calls are repeated.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar

import grpc
import grpc.aio
from opentelemetry.trace import SpanKind, Status, StatusCode
from typing_extensions import override

from services.chassis.breaker import Breaker
from services.chassis.errors import DeadlineExceeded, ModelyardError
from services.chassis.retry import RetryBudget, RetryPolicy
from services.chassis.rpc import telemetry
from services.chassis.rpc.context import IDEMPOTENCY_KEY, deadline, principal
from services.chassis.rpc.deadline import Deadline
from services.chassis.rpc.identity import TokenSigner
from services.chassis.rpc.status import CODES, from_call_error, is_callees_fault
from services.chassis.settings import GrpcClientSettings
from services.chassis.telemetry.tracing import current_traceparent, tracer
from services.chassis.transaction_mark import in_transaction

Response_co = TypeVar("Response_co", covariant=True)
Metadata = Sequence[tuple[str, str]]

# What the caller needs to report which call was late, instead of being cut off itself.
_MARGIN: Final = timedelta(milliseconds=20)
_FLOOR_S: Final = 0.005


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
    settings: GrpcClientSettings, *, signer: TokenSigner
) -> AsyncIterator[grpc.aio.Channel]:
    """Open a channel whose calls carry token, trace and deadline."""
    carried = _Carried(signer)
    async with grpc.aio.insecure_channel(
        settings.address,
        interceptors=[_UnaryUnary(carried), _UnaryStream(carried), _StreamUnary(carried)],
        options=[
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
        ],
    ) as channel:
        yield channel


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
            counts=is_callees_fault,
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
        until = self._until(timeout)
        path = _path(method)

        async def once() -> Response_co:
            with self._measured(path):
                async with self.breaker.calling():
                    try:
                        return await method(request, timeout=until.remaining_s(), metadata=metadata)
                    except grpc.aio.AioRpcError as error:
                        raise from_call_error(error, callee=self.name) from error

        if idempotent:
            return await self.retry.run(once, until=until)
        return await once()

    @asynccontextmanager
    async def guard(self, path: str = "stream") -> AsyncIterator[None]:
        """Run a streaming call inside: breaker and error mapping, no retry."""
        _refuse_in_transaction()
        with self._measured(path):
            async with self.breaker.calling():
                try:
                    yield
                except grpc.aio.AioRpcError as error:
                    raise from_call_error(error, callee=self.name) from error

    def _until(self, timeout: timedelta) -> Deadline:
        _refuse_in_transaction()
        inherited = deadline()
        until = Deadline.after(timeout)
        if inherited is not None:
            until = until.sooner(
                Deadline(inherited.at_s - _MARGIN.total_seconds(), inherited.monotonic)
            )
        if until.remaining_s() < _FLOOR_S:
            raise DeadlineExceeded(self.name)
        return until

    @contextmanager
    def _measured(self, path: str) -> Iterator[None]:
        started = time.perf_counter()
        code = "OK"
        with tracer(__name__).start_as_current_span(
            path,
            kind=SpanKind.CLIENT,
            attributes={telemetry.SYSTEM: "grpc", telemetry.METHOD: path},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except ModelyardError as error:
                code = CODES[error.code].name
                if is_callees_fault(error):
                    span.set_status(Status(StatusCode.ERROR, error.message))
                raise
            except BaseException:
                code = "CANCELLED"
                raise
            finally:
                span.set_attribute(telemetry.STATUS, code)
                telemetry.CLIENT_SECONDS.labels(path, code).observe(time.perf_counter() - started)


@dataclass(frozen=True, slots=True)
class _Carried:
    """Adds what every call carries."""

    signer: TokenSigner

    def details(self, given: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(given.metadata or ()))
        metadata["authorization"] = f"Bearer {self.signer.token(principal())}"
        traceparent = current_traceparent()
        if traceparent is not None:
            metadata["traceparent"] = traceparent
        return grpc.aio.ClientCallDetails(
            method=given.method,
            timeout=given.timeout,
            metadata=metadata,
            credentials=given.credentials,
            wait_for_ready=given.wait_for_ready,
        )


@dataclass(frozen=True, slots=True)
class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    carried: _Carried

    @override
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return await continuation(self.carried.details(client_call_details), request)


@dataclass(frozen=True, slots=True)
class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    carried: _Carried

    @override
    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return await continuation(self.carried.details(client_call_details), request)


@dataclass(frozen=True, slots=True)
class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    carried: _Carried

    @override
    async def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(self.carried.details(client_call_details), request_iterator)


def _refuse_in_transaction() -> None:
    assert not in_transaction.get(), "a remote call inside a transaction (ADR-0002)"


def _path(method: object) -> str:
    path = getattr(method, "_method", b"call")
    return (path.decode() if isinstance(path, bytes) else str(path)).lstrip("/")
