"""A TCP line on which every byte takes its time, in both directions; none is lost or passed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

_CHUNK_BYTES_MAX: Final = 64 * 1024


@asynccontextmanager
async def slow_line(target: str, *, port: int, delay_s: float) -> AsyncIterator[str]:
    """Give an address on loopback that leads to `target`, which is `host:port`, too."""
    host, _, target_port = target.partition(":")
    transports: set[asyncio.WriteTransport] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transports.add(writer.transport)
        with suppress(ConnectionError):
            far_reader, far_writer = await asyncio.open_connection(host, int(target_port))
            transports.add(far_writer.transport)
            await asyncio.gather(
                _passed_on(reader, far_writer, delay_s=delay_s),
                _passed_on(far_reader, writer, delay_s=delay_s),
            )

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.close()
        await server.wait_closed()
        for transport in transports:
            transport.abort()
        await asyncio.sleep(0)  # tidy: allow sleep because aborted transports close a turn later


async def _passed_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, delay_s: float
) -> None:
    """Write what is read, each chunk so much later; the end, too."""
    loop = asyncio.get_running_loop()
    while chunk := await reader.read(_CHUNK_BYTES_MAX):
        loop.call_later(delay_s, writer.write, chunk)
    loop.call_later(delay_s, writer.close)
