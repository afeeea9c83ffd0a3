"""The HTTP server itself, over real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from starlette.types import Receive, Scope, Send

from services.api_gateway.entrypoints.rest.server import HEAD_BYTES_MAX, HttpServer
from services.chassis.errors import Unavailable
from tests.support.eventually import eventually


async def show_client(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the caller's address."""
    body = str(scope["client"][0]).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def a_server(port: int) -> HttpServer:
    second = timedelta(seconds=1)
    return HttpServer(show_client, "127.0.0.1", port, 100, second, second)


@asynccontextmanager
async def running() -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(a_server(port).run(stopping))
        try:
            await eventually(lambda: is_listening(port), what="the server listens")
            yield port
        finally:
            stopping.set()


async def is_listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def ask(port: int, head: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head)
        return await reader.readuntil(b"\r\n\r\n") + await reader.read(100)
    finally:
        writer.close()


async def flood(writer: asyncio.StreamWriter) -> None:
    for _ in range(1000):
        writer.write(b"x" * HEAD_BYTES_MAX)
        await writer.drain()


async def test_answers_are_dated_and_the_callers_address_is_the_sockets() -> None:
    async with running() as port:
        answer = await ask(port, b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 8.8.8.8\r\n\r\n")
    assert b"\r\ndate: " in answer
    assert answer.endswith(b"127.0.0.1")


async def test_a_request_head_without_end_is_dropped() -> None:
    async with running() as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ")
        with pytest.raises(ConnectionError):
            await flood(writer)
        writer.close()


async def test_a_large_body_is_no_long_head() -> None:
    async with running() as port:
        length = 10 * HEAD_BYTES_MAX
        head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()
        assert (await ask(port, head + b"x" * length)).startswith(b"HTTP/1.1 200")


async def test_a_follower_does_not_keep_the_server_from_stopping() -> None:
    stopping = asyncio.Event()

    async def follow(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"line", "more_body": True})
        await asyncio.Event().wait()

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    second = timedelta(seconds=1)
    server = asyncio.create_task(
        HttpServer(follow, "127.0.0.1", port, 100, second, second).run(stopping)
    )
    await eventually(lambda: is_listening(port), what="the server listens")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"line\r\n")
    stopping.set()
    await asyncio.wait_for(server, 10)
    with pytest.raises(asyncio.IncompleteReadError):
        await reader.readuntil(b"0\r\n\r\n")
    writer.close()


async def test_an_address_that_is_taken_fails_the_loop_not_the_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        with pytest.RaisesGroup(pytest.RaisesExc(Unavailable, match=str(port))):
            await a_server(port).run(asyncio.Event())
