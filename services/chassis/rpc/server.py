"""A service's gRPC server.

Owns: what surrounds every call, outermost first: errors → metrics → span → deadline → identity and
scope. Handlers raise `ModelyardError`; anything else is logged with an id and reads INTERNAL: gRPC
itself would send an exception's text to the caller. A method without a declared scope stops the
start. Health and reflection are open to everybody, and not counted among the calls at work.

Always holds: a call and all of its stream run in one task. An async generator that gRPC drives
would be left suspended when its client goes, and be closed by the garbage collector, late and in a
foreign context: so streams are driven here, and closed before their call ends.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from loguru import logger
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from typing_extensions import override

from services.chassis.clock import SystemClock
from services.chassis.errors import (
    DeadlineExceeded,
    Internal,
    ModelyardError,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from services.chassis.ids import Ids, TimeOrderedIds
from services.chassis.rpc import telemetry
from services.chassis.rpc.callers import Callers, may
from services.chassis.rpc.context import Context, acting_as, bounded_by
from services.chassis.rpc.deadline import Deadline
from services.chassis.rpc.identity import Caller, TokenVerifier
from services.chassis.rpc.status import CODES, is_callees_fault, to_status
from services.chassis.rpc.tls import check_peer, server_credentials
from services.chassis.settings import GrpcServerSettings
from services.chassis.telemetry.tracing import context_from, tracer

_OPEN: Final = ("/grpc.health.v1.", "/grpc.reflection.")
# A stream that outlives its connection's age is cut after this: longer than the longest transfer.
_CONNECTION_AGE_GRACE: Final = timedelta(minutes=20)


@dataclass(slots=True)
class RpcServer:
    """A running server."""

    port: int
    _server: grpc.aio.Server
    _health: HealthServicer
    _around: "_Around"
    _is_drained: bool = False

    async def drain(self, grace: timedelta) -> None:
        """Tell clients to go elsewhere, let calls at work finish, cancel them after `grace`."""
        if self._is_drained:
            return
        self._is_drained = True
        await self._health.enter_graceful_shutdown()
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(self._server.stop(grace.total_seconds()))
            # gRPC never hands over a call that arrives in the very moment of a stop (measured on
            # 1.85: one in ten stops under load): it would hang for all of its deadline. So nothing
            # is waited for once no handler is at work, and such a call reads UNAVAILABLE.
            idle = group.create_task(self._around.idle.wait())
            await asyncio.wait([stopping, idle], return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
            await self._server.stop(None)


@asynccontextmanager
async def serve(
    settings: GrpcServerSettings,
    *,
    register: Callable[[grpc.aio.Server], None],
    services: Sequence[str],
    verifier: TokenVerifier,
    required_scopes: Mapping[str, str],
    callers: Callers,
    ids: Ids | None = None,
) -> AsyncIterator[RpcServer]:
    """Answer calls to `services` (full names) until the context closes.

    `required_scopes` maps "/package.Service/Method" to the scope that a caller needs. Raises
    ValueError for a method that has none: there is no default for a whole service, which a new
    method would get unseen. `callers` says from which service such a scope is taken, and for whom.
    """
    scopes = _scopes_by_method(services, required_scopes)
    around = _Around(
        scopes,
        callers,
        verifier,
        settings.default_deadline,
        settings.concurrent_calls_max,
        ids or TimeOrderedIds(SystemClock()),
        has_certificates=settings.tls is not None,
    )
    server = grpc.aio.server(
        interceptors=[_Interceptor(around)],
        options=[
            ("grpc.max_receive_message_length", settings.message_bytes_max),
            ("grpc.max_send_message_length", settings.message_bytes_max),
            ("grpc.max_connection_age_ms", _milliseconds(settings.connection_age_max)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(_CONNECTION_AGE_GRACE)),
            # Clients ping every 30 s to notice a silent partition; by default the server would
            # answer a ping more often than every 5 minutes by closing the connection.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.so_reuseport", 0),
        ],
    )
    register(server)
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection(
        [*services, "grpc.health.v1.Health", reflection.SERVICE_NAME], server
    )
    address = f"{settings.host}:{settings.port}"
    if settings.tls is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, server_credentials(settings.tls))
    await server.start()
    for name in ("", *services):
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
    running = RpcServer(port=port, _server=server, _health=health, _around=around)
    try:
        yield running
    finally:
        # Also after a drain that was itself cancelled.
        await server.stop(None)


class RpcLoop:
    """The server as one of a process's loops; `ping` is its readiness check."""

    def __init__(
        self,
        settings: GrpcServerSettings,
        *,
        register: Callable[[grpc.aio.Server], None],
        services: Sequence[str],
        verifier: TokenVerifier,
        required_scopes: Mapping[str, str],
        callers: Callers,
        drain_max: timedelta,
        on_drain: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_drain` is called before calls at work are waited for, `drain_max` at most."""
        self._serve = partial(
            serve,
            settings,
            register=register,
            services=services,
            verifier=verifier,
            required_scopes=required_scopes,
            callers=callers,
        )
        self._drain_max = drain_max
        self._on_drain = on_drain
        self._is_answering = False

    async def ping(self) -> None:
        """Return when calls are answered; raises Unavailable."""
        if not self._is_answering:
            raise Unavailable("grpc")

    async def run(self, stopping: asyncio.Event) -> None:
        """Answer calls until `stopping` is set, then let those at work finish."""
        async with self._serve() as server:
            self._is_answering = True
            await stopping.wait()
            self._is_answering = False
            self._on_drain()
            await server.drain(self._drain_max)


@dataclass(slots=True)
class _Around:
    """What is done around each call."""

    scopes: Mapping[str, str]
    callers: Callers
    verifier: TokenVerifier
    default_deadline: timedelta
    calls_max: int
    ids: Ids
    has_certificates: bool
    call_count: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no call is at work."""

    def __post_init__(self) -> None:
        self.idle.set()

    @asynccontextmanager
    async def call(self, method: str, context: Context, *, is_stream: bool) -> AsyncIterator[None]:
        """Run one call inside; its failure becomes the call's status."""
        started = time.perf_counter()
        code = "OK"
        metadata = _metadata(context)
        with tracer(__name__).start_as_current_span(
            method.lstrip("/"),
            context=context_from(metadata.get("traceparent")),
            kind=SpanKind.SERVER,
            attributes={telemetry.SYSTEM: "grpc", telemetry.METHOD: method.lstrip("/")},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                self._begin(context)
                async with self._bounded(method, context, is_stream=is_stream):
                    caller = self._caller(method, metadata, context)
                    with acting_as(caller.principal):
                        yield
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except grpc.aio.AbortError:
                code = "ABORTED"
                raise
            except ModelyardError as error:
                code = CODES[error.code].name
                await self._refuse(error, context, span)
            except Exception as error:  # noqa: BLE001 the boundary: a bug becomes INTERNAL with an id
                internal = Internal(self.ids.new("err"))
                code = CODES[internal.code].name
                logger.opt(exception=error).error(
                    "call failed", method=method, error_id=internal.detail["error_id"]
                )
                await self._refuse(internal, context, span)
            finally:
                span.set_attribute(telemetry.STATUS, code)
                telemetry.SERVER_SECONDS.labels(method, code).observe(time.perf_counter() - started)

    async def _refuse(self, error: ModelyardError, context: Context, span: trace.Span) -> None:
        # Only what is this server's fault is an error of its span: a refusal is an answer.
        if is_callees_fault(error):
            span.set_status(Status(StatusCode.ERROR, error.message))
        await context.abort_with_status(rpc_status.to_status(to_status(error)))

    def _begin(self, context: Context) -> None:
        # gRPC's own limit answers RESOURCE_EXHAUSTED, which reads like a message too large, and
        # refuses health checks as well.
        if self.call_count >= self.calls_max:
            raise Unavailable("the server, which is at its limit of calls at work,")
        self.call_count += 1
        self.idle.clear()
        # Not when the handler returns: its answer has not left by then.
        context.add_done_callback(self._end)  # type: ignore[arg-type]  # the stubs want a class

    def _end(self, _: object) -> None:
        self.call_count -= 1
        if self.call_count == 0:
            self.idle.set()

    def _caller(self, method: str, metadata: Mapping[str, str], context: Context) -> Caller:
        scheme, _, token = metadata.get("authorization", "").partition(" ")
        if scheme != "Bearer":
            raise Unauthenticated
        caller = self.verifier.verify(token)
        if self.has_certificates:
            check_peer(context, caller.service)
        scope = self.scopes[method]
        if scope not in caller.principal.scopes or not may(self.callers, caller, scope):
            raise PermissionDenied(scope)
        return caller

    @asynccontextmanager
    async def _bounded(
        self, method: str, context: Context, *, is_stream: bool
    ) -> AsyncIterator[None]:
        remaining_s = context.time_remaining()
        if remaining_s is None and is_stream:
            yield
            return
        if remaining_s is None:
            remaining_s = self.default_deadline.total_seconds()
        until = Deadline.after(timedelta(seconds=max(0.0, remaining_s)))
        bound = asyncio.timeout(remaining_s)
        try:
            async with bound:
                with bounded_by(until):
                    yield
        except TimeoutError as error:
            if not bound.expired():
                raise  # the handler's own, and a bug there
            raise DeadlineExceeded(method.lstrip("/")) from error


class _Interceptor(grpc.aio.ServerInterceptor):
    """Puts `_Around` around unary answers and around streams of answers."""

    def __init__(self, around: _Around) -> None:
        self._around = around

    @override
    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the method's handler, wrapped."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or method.startswith(_OPEN):
            return handler
        if handler.unary_unary or handler.stream_unary:
            return self._unary(method, handler)
        return self._stream(method, handler)

    def _unary(self, method: str, handler: Any) -> Any:
        behaviour = handler.unary_unary or handler.stream_unary
        is_stream = bool(handler.stream_unary)

        async def answer(request: Any, context: Context) -> Any:
            async with self._around.call(method, context, is_stream=is_stream):
                return await behaviour(request, context)

        make: Any = (
            grpc.stream_unary_rpc_method_handler
            if is_stream
            else grpc.unary_unary_rpc_method_handler
        )
        return make(
            answer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _stream(self, method: str, handler: Any) -> Any:
        behaviour = handler.unary_stream or handler.stream_stream

        async def answers(request: Any, context: Context) -> None:
            async with (
                self._around.call(method, context, is_stream=True),
                aclosing(behaviour(request, context)) as stream,
            ):
                async for answer in stream:
                    await context.write(answer)

        make: Any = (
            grpc.unary_stream_rpc_method_handler
            if handler.unary_stream
            else grpc.stream_stream_rpc_method_handler
        )
        return make(
            answers,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _scopes_by_method(
    services: Sequence[str], required_scopes: Mapping[str, str]
) -> dict[str, str]:
    pool = descriptor_pool.Default()
    scopes = {}
    for service in services:
        for method in pool.FindServiceByName(service).methods:
            path = f"/{service}/{method.name}"
            scope = required_scopes.get(path)
            if scope is None:
                raise ValueError(f"{path} declares no scope")
            scopes[path] = scope
    return scopes


def _metadata(context: Context) -> dict[str, str]:
    return {
        name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)
    }


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)
