"""That something has happened to a container: by the engine's events, over its restarts.

Owns: who waits for news of which container, and the place in the stream of events. Leaves to those
who wait what has happened: they look for themselves, all of them after each gap in the stream.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from loguru import logger

from services.chassis.clock import Clock
from services.scheduler.adapters.runtime_docker.engine import Engine, Json

_RECONNECT_PAUSE: Final = timedelta(milliseconds=200)


class ContainerNews:
    """News of one scope's containers; `follow` has to run beside it."""

    def __init__(self, engine: Engine, scope: Mapping[str, str], clock: Clock) -> None:
        """Begin where the engine's events are now."""
        self._engine = engine
        self._scope = scope
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._since_ns = int(clock.now().timestamp()) * 10**9
        self._is_followed = True

    @contextmanager
    def listening_for(self, name: str) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever something happens to a container."""
        news = asyncio.Event()
        self._waiting[name].add(news)
        try:
            yield news
        finally:
            self._waiting[name].discard(news)
            if not self._waiting[name]:
                del self._waiting[name]

    async def follow(self) -> None:
        """Read events for ever."""
        while True:
            begun_at = time.monotonic()
            reason = await self._engine.read_events(
                self._scope, since_ns=self._since_ns, on_event=self._on_event
            )
            if self._is_followed or time.monotonic() - begun_at > _RECONNECT_PAUSE.total_seconds():
                self._is_followed = False
                logger.warning("engine's events are not followed", error=reason)
            _tell(news for waiting in self._waiting.values() for news in waiting)
            await asyncio.sleep(_RECONNECT_PAUSE.total_seconds())

    def _on_event(self, event: Json) -> None:
        self._since_ns = event["timeNano"]
        if not self._is_followed:
            self._is_followed = True
            logger.info("engine's events are followed again")
        _tell(self._waiting.get(event["Actor"]["Attributes"].get("name", ""), ()))


def _tell(waiting: Iterable[asyncio.Event]) -> None:
    for news in waiting:
        news.set()
