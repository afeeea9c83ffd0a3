"""Requests to replicas over real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from aiohttp import web
from typing_extensions import override

from services.api_gateway.adapters.replicas_http import HttpReplicas, open_replicas
from services.api_gateway.use_cases.infer import InferenceRequest, NotSent
from services.chassis.breaker import breaker_states
from services.chassis.errors import DeadlineExceeded, PayloadTooLarge, Unavailable
from services.chassis.telemetry.tracing import tracer

BYTES_MAX = 1000
REQUEST = InferenceRequest("POST", "/v2/models/m/infer", {"content-type": "x/y"}, b"\x00\x01")


@asynccontextmanager
async def a_replica(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], *, port: int = 0
) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def opened(request_timeout: timedelta) -> AbstractAsyncContextManager[HttpReplicas]:
    return open_replicas(
        tracer=tracer("test"), request_timeout=request_timeout, response_bytes_max=BYTES_MAX
    )


@pytest.fixture
async def replicas() -> AsyncIterator[HttpReplicas]:
    async with opened(timedelta(seconds=10)) as replicas:
        yield replicas


async def test_bytes_and_the_protocols_headers_pass_both_ways(replicas: HttpReplicas) -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.headers["content-type"] == "x/y"
        headers = {"Inference-Header-Content-Length": "2", "Set-Cookie": "a=b"}
        return web.Response(body=await request.read() + b"\xff", headers=headers)

    async with a_replica(answer) as address:
        response = await replicas.send(address, REQUEST)
    assert response.body == b"\x00\x01\xff"
    kept = {name.lower() for name in response.headers}
    assert "inference-header-content-length" in kept
    assert "set-cookie" not in kept


async def test_a_model_servers_refusal_is_an_answer(replicas: HttpReplicas) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"error": "shape"}, status=400)

    async with a_replica(answer) as address:
        assert (await replicas.send(address, REQUEST)).status == 400


async def test_a_refused_connection_is_not_sent(replicas: HttpReplicas) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    async with a_replica(answer) as address:
        pass
    with pytest.raises(NotSent):
        await replicas.send(address, REQUEST)


async def test_a_replica_that_dies_while_it_answers_is_not_asked_again(
    replicas: HttpReplicas,
) -> None:
    asked = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with a_replica(answer) as address:
        with pytest.raises(Unavailable):
            await replicas.send(address, REQUEST)
    assert asked == 1


async def test_who_follows_a_request_that_made_a_replica_fail_is_answered(
    replicas: HttpReplicas,
) -> None:
    """As uvicorn: it closes the connection of an error, after an answer that says it keeps it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\x00\x01")
        status = b"500 Error" if request.startswith(b"POST /bad") else b"200 OK"
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: 2\r\n\r\nok" % status)
        await reader.read(1)  # whatever comes next, it goes without an answer
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        failed = await replicas.send(address, replace(REQUEST, path="/bad"))
        answered = await replicas.send(address, REQUEST)
    assert (failed.status, answered.status) == (500, 200)


async def test_an_answer_that_is_too_large_is_given_up(replicas: HttpReplicas) -> None:
    async def large(_: web.Request) -> web.Response:
        return web.Response(body=bytes(BYTES_MAX + 1))

    async with a_replica(large) as address:
        with pytest.raises(PayloadTooLarge):
            await replicas.send(address, REQUEST)


async def test_an_answer_that_does_not_end_in_time_is_given_up() -> None:
    over = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b".")
        await over.wait()
        return response

    async with a_replica(endless) as address, opened(timedelta(seconds=0.3)) as replicas:
        with pytest.raises(DeadlineExceeded):
            await replicas.send(address, REQUEST)
        over.set()


async def test_a_replica_that_keeps_refusing_is_left_alone(replicas: HttpReplicas) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    async with a_replica(answer) as address:
        pass
    for _ in range(5):
        with pytest.raises(NotSent):
            await replicas.send(address, REQUEST)
    # Nothing is sent now even if somebody listens, so another replica may be asked.
    asked = 0

    async def answer_again(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response()

    async with a_replica(answer_again, port=int(address.rpartition(":")[2])):
        with pytest.raises(NotSent):
            await replicas.send(address, REQUEST)
    assert asked == 0


async def test_a_replica_that_is_not_asked_any_more_is_not_shown_as_refused_for_ever(
    replicas: HttpReplicas,
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    async with a_replica(answer) as gone:
        pass
    for _ in range(6):
        with pytest.raises(NotSent):
            await replicas.send(gone, REQUEST)
    async with a_replica(answer) as there:
        await replicas.send(there, REQUEST)
        assert breaker_states()["replica"] == "open"  # of both, the worse one

        replicas.monotonic = lambda: time.monotonic() + timedelta(minutes=3).total_seconds()
        await replicas.send(there, REQUEST)
        assert breaker_states()["replica"] == "closed"


async def test_a_replicas_redirect_is_passed_back_and_not_followed(replicas: HttpReplicas) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with a_replica(answer) as address:
        response = await replicas.send(address, REQUEST)
    assert (response.status, asked) == (307, [REQUEST.path])


async def test_a_replica_is_told_what_the_caller_said_and_nothing_of_an_earlier_call(
    replicas: HttpReplicas,
) -> None:
    heard: list[set[str]] = []

    async def answer(request: web.Request) -> web.Response:
        heard.append({name.lower() for name in request.headers})
        return web.Response(headers={"Set-Cookie": "caller=one; Domain=localhost"})

    async with a_replica(answer) as address:
        by_name = address.replace("127.0.0.1", "localhost")
        for _ in range(2):
            await replicas.send(by_name, REQUEST)
    assert heard[0] == heard[1]
    assert not heard[0] & {"cookie", "accept", "accept-encoding", "user-agent"}


async def test_only_a_get_is_sent_again_when_a_kept_connection_breaks(
    replicas: HttpReplicas,
) -> None:
    asked: list[bytes] = []

    class Leaving(asyncio.Protocol):
        """Answers the first request on each connection, and breaks it off at the second."""

        @override
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport
            self.is_first = True

        @override
        def data_received(self, data: bytes) -> None:
            method = data.split(b" ")[0]
            if method not in {b"GET", b"POST"}:
                return  # the body, which aiohttp writes by itself
            asked.append(method)
            if not self.is_first:
                self.transport.abort()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            self.is_first = False

    get = InferenceRequest("GET", "/v2/models/m", {}, b"")
    server = await asyncio.get_running_loop().create_server(Leaving, "127.0.0.1", 0)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await replicas.send(address, get)
        with pytest.raises(Unavailable):
            await replicas.send(address, REQUEST)
        await replicas.send(address, get)
        await replicas.send(address, get)
    assert asked == [b"GET", b"POST", b"GET", b"GET", b"GET"]
