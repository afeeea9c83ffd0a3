"""Sends inference requests to replicas over HTTP, with one breaker a replica.

A connection that can't be made and an open breaker are `NotSent`; what fails later is not repeated,
but for a GET on a kept connection that the replica had closed: aiohttp sends it once more. A POST
would fail there, so connections are kept for less time than a server keeps them (5 s, uvicorn's
default), and none is used again once its replica has failed: uvicorn closes that of an error which
nobody has caught, after an answer that promises to keep it.

A replica's program is a tenant's: its redirects are not followed and its cookies not kept, or it
could send the gateway anywhere, and one caller's cookie to another.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from typing import Final

import aiohttp
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from services.api_gateway.use_cases.infer import InferenceRequest, InferenceResponse, NotSent
from services.chassis.breaker import Breaker
from services.chassis.errors import DeadlineExceeded, PayloadTooLarge, Unavailable

_PASSED_BACK: Final = frozenset(
    {"content-type", "content-encoding", "inference-header-content-length"}
)
# aiohttp would ask for compression that the caller may not understand.
_OURS: Final = ("Accept", "Accept-Encoding", "User-Agent")
_BREAKERS_MAX: Final = 10_000
_KEPT_AFTER_USE: Final = timedelta(minutes=2)
"""A breaker of a replica that is not asked any more: it may be gone, and would be shown as open."""


@dataclass(slots=True)
class HttpReplicas:
    """One client session for all replicas."""

    session: aiohttp.ClientSession
    tracer: trace.Tracer
    request_timeout: timedelta
    response_bytes_max: int
    monotonic: Callable[[], float] = time.monotonic
    _edges: dict[str, "_Edge"] = field(default_factory=dict)
    """By address, in the order of their last use."""

    async def send(self, address: str, request: InferenceRequest) -> InferenceResponse:
        """Send once to `address`."""
        with self.tracer.start_as_current_span(
            request.method,
            kind=SpanKind.CLIENT,
            attributes={"http.request.method": request.method, "server.address": address},
        ) as span:
            headers = dict(request.headers)
            propagate.inject(headers)
            edge = self._edge(address)
            is_admitted = False
            try:
                with edge.breaker.calling():
                    is_admitted = True
                    response = await self._send(address, edge.pool, request, headers)
            except (NotSent, Unavailable, DeadlineExceeded) as error:
                span.set_status(Status(StatusCode.ERROR, str(error)))
                if not is_admitted:
                    raise NotSent(address) from error
                raise
            if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                edge.pool += 1
            span.set_attribute("http.response.status_code", response.status)
            return response

    def forget_all(self) -> None:
        """Show no replica's breaker any more."""
        for edge in self._edges.values():
            edge.breaker.retire()
        self._edges.clear()

    async def _send(
        self, address: str, pool: int, request: InferenceRequest, headers: dict[str, str]
    ) -> InferenceResponse:
        try:
            async with self.session.request(
                request.method,
                f"http://{address}{request.path}",
                headers=headers,
                data=request.body or None,
                allow_redirects=False,
                skip_auto_headers=_OURS,
                # Connections are kept by this, too; without TLS it has no other meaning.
                server_hostname=str(pool),
                timeout=aiohttp.ClientTimeout(
                    total=self.request_timeout.total_seconds(), sock_connect=1
                ),
            ) as answer:
                body = await _read_bounded(answer, self.response_bytes_max)
                kept = {k: v for k, v in answer.headers.items() if k.lower() in _PASSED_BACK}
                return InferenceResponse(status=answer.status, headers=kept, body=body)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSent(address) from error
        except TimeoutError as error:
            raise DeadlineExceeded("replica") from error
        except aiohttp.ClientError as error:
            raise Unavailable("replica") from error

    def _edge(self, address: str) -> "_Edge":
        now_s = self.monotonic()
        edge = self._edges.pop(address, None) or _Edge(_breaker(), now_s)
        edge.used_at_s = now_s
        self._edges[address] = edge
        self._forget_unused(since_s=now_s - _KEPT_AFTER_USE.total_seconds())
        return edge

    def _forget_unused(self, *, since_s: float) -> None:
        while self._edges:
            address, edge = next(iter(self._edges.items()))
            if edge.used_at_s >= since_s and len(self._edges) <= _BREAKERS_MAX:
                return
            edge.breaker.retire()
            del self._edges[address]


@dataclass(slots=True)
class _Edge:
    """The way to one replica."""

    breaker: Breaker
    used_at_s: float
    pool: int = 0
    """The how-manieth set of connections; of earlier ones none is used again."""


def _breaker() -> Breaker:
    return Breaker(
        "replica",
        failure_count_max=5,
        window=timedelta(seconds=10),
        reset_after=timedelta(seconds=2),
        counts=lambda error: isinstance(error, (NotSent, Unavailable, DeadlineExceeded)),
    )


async def _read_bounded(answer: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in answer.content.iter_chunked(64 * 1024):
        size += len(piece)
        if size > bytes_max:
            raise PayloadTooLarge("response", bytes_max=bytes_max)
        pieces.append(piece)
    return b"".join(pieces)


@asynccontextmanager
async def open_replicas(
    *, tracer: trace.Tracer, request_timeout: timedelta, response_bytes_max: int
) -> AsyncIterator[HttpReplicas]:
    """Open the session; its connections close with the context."""
    connector = aiohttp.TCPConnector(limit=512, limit_per_host=64, keepalive_timeout=4)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    ) as session:
        replicas = HttpReplicas(
            session=session,
            tracer=tracer,
            request_timeout=request_timeout,
            response_bytes_max=response_bytes_max,
        )
        try:
            yield replicas
        finally:
            replicas.forget_all()
