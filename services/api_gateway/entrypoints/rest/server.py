"""Runs the REST application on uvicorn, as one loop of the process.

The process's own shutdown decides when: uvicorn's signal handling is off. When told to stop it
takes no new connections, lets requests at work finish, and cuts what is left after `grace`; a
follower of logs then comes again from its position.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override


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
        """Serve until `stopping` is set."""
        server = _Server(
            uvicorn.Config(
                self.app,
                host=self.host,
                port=self.port,
                log_config=None,
                access_log=False,
                lifespan="off",
                limit_concurrency=self.connections_max,
                timeout_keep_alive=int(self.keep_alive.total_seconds()),
                timeout_graceful_shutdown=int(self.grace.total_seconds()),
                h11_max_incomplete_event_size=64 * 1024,
                server_header=False,
                date_header=False,
            )
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve())
            await stopping.wait()
            server.should_exit = True
