"""Asking a model server over HTTP whether it is there: `ServerProbe`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus

import aiohttp


@dataclass(frozen=True, slots=True)
class HttpServerProbe:
    """One GET; only 200 within the time-out is a yes."""

    session: aiohttp.ClientSession

    async def is_ready(self, url: str) -> bool:
        """Return whether it answers 200 in time."""
        try:
            async with self.session.get(url, allow_redirects=False) as response:
                return response.status == HTTPStatus.OK
        except (aiohttp.ClientError, TimeoutError):
            return False


@asynccontextmanager
async def open_server_probe(*, timeout: timedelta) -> AsyncIterator[HttpServerProbe]:
    """Open the connections that probing shares."""
    limits = aiohttp.ClientTimeout(total=timeout.total_seconds())
    async with aiohttp.ClientSession(timeout=limits) as session:
        yield HttpServerProbe(session)
