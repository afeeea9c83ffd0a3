"""Requests to replicas over real sockets."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from aiohttp import web

from services.api_gateway.adapters.replicas_http import HttpReplicas, open_replicas
from services.api_gateway.use_cases.infer import InferenceRequest, NotSent
from services.chassis.errors import DeadlineExceeded, PayloadTooLarge, Unavailable
from services.chassis.telemetry.tracing import tracer

REQUEST = InferenceRequest("POST", "/v2/models/m/infer", {"content-type": "x/y"}, b"\x00\x01")


@asynccontextmanager
async def a_replica(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def replicas() -> AsyncIterator[HttpReplicas]:
    async with open_replicas(
        tracer=tracer("test"), request_timeout=timedelta(seconds=1), response_bytes_max=1000
    ) as opened:
        yield opened


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


async def test_an_answer_that_is_too_late_or_too_large_is_given_up(replicas: HttpReplicas) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await request.content.read()
        while not (request.transport is None or request.transport.is_closing()):
            await response.write(b".")
        return response

    async with a_replica(slow) as address:
        with pytest.raises((PayloadTooLarge, DeadlineExceeded)):
            await replicas.send(address, REQUEST)


async def test_a_replica_that_keeps_refusing_is_left_alone(replicas: HttpReplicas) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    async with a_replica(answer) as address:
        pass
    for _ in range(5):
        with pytest.raises(NotSent):
            await replicas.send(address, REQUEST)
    with pytest.raises(Unavailable):
        await replicas.send(address, REQUEST)
