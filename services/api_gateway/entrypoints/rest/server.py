"""Runs the REST application on uvicorn, as one loop of the process.

The process's own shutdown decides when: uvicorn's signal handling is off. When told to stop it
takes no new connections, lets requests at work finish, and cuts what is left after `grace`; a
follower of logs then comes again from its position.

uvicorn's httptools keeps as much of an unfinished request head as is sent, without a bound: `_Http`
has one.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.chassis.errors import Unavailable

HEAD_BYTES_MAX: Final = 64 * 1024


class _Http(HttpToolsProtocol):
    """Drops a connection whose request line and headers come to more than `HEAD_BYTES_MAX`."""

    _is_in_head = False
    _head_bytes = 0

    @override
    def on_message_begin(self) -> None:
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_begin()

    @override
    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self.transport.abort()


class _Server(uvicorn.Server):
    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class HttpServer:
    """Serves until it is told to stop."""

    app: ASGIApp
    host: str
    port: int
    connections_max: int
    keep_alive: timedelta
    grace: timedelta

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until `stopping` is set; raises Unavailable if it can't listen."""
        server = _Server(
            uvicorn.Config(
                self.app,
                http=_Http,
                ws="none",
                host=self.host,
                port=self.port,
                log_config=None,
                access_log=False,
                lifespan="off",
                limit_concurrency=self.connections_max,
                timeout_keep_alive=int(self.keep_alive.total_seconds()),
                timeout_graceful_shutdown=int(self.grace.total_seconds()),
                # A caller must not choose the address that its refused credentials count against.
                proxy_headers=False,
                server_header=False,
            )
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._serve(server))
            await stopping.wait()
            server.should_exit = True

    async def _serve(self, server: uvicorn.Server) -> None:
        try:
            await server.serve()
        except SystemExit as error:
            # uvicorn's way to say that the address is taken: it would pass by all that is to close.
            raise Unavailable(f"address {self.host}:{self.port}") from error
