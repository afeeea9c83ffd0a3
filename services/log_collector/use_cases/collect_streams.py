"""Collect every open stream of this node, one task each."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from loguru import logger

from services.chassis.errors import ModelyardError
from services.chassis.waiting import is_set_within
from services.log_collector import telemetry
from services.log_collector.use_cases.collect_stream import Collection, CollectStream
from services.log_collector.use_cases.complete_stream import CompleteStream
from services.log_collector.use_cases.live_output import LiveOutput
from services.log_collector.use_cases.ports import UnitOfWork

_LOOK_INTERVAL: Final = timedelta(seconds=1)
"""Fallback only: in this process a commit wakes the loop; another process's does not."""
_RETRY_AFTER: Final = timedelta(seconds=1)
_RETRY_AFTER_BUG: Final = timedelta(seconds=30)
"""After a failure that trying again is not known to help."""


@dataclass(frozen=True, slots=True)
class CollectStreams:
    """Own the collecting tasks: start one for each stream, tell it of the end, stop all.

    At most `streams_max` at a time; the oldest go first, the others wait in their files.
    """

    unit_of_work: UnitOfWork
    collect_stream: CollectStream
    complete_stream: CompleteStream
    live: LiveOutput
    node_id: str | None
    streams_max: int
    _running: dict[str, Collection] = field(default_factory=dict)
    _completed: set[str] = field(default_factory=set)
    """Since the last look began, whose rows may tell of them as they were before."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Collect until asked to stop; returns when all that was read is stored."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._wake_when(stopping))
            while not stopping.is_set():
                changed = self.live.streams_changed.next()
                await self._look(group)
                await is_set_within(changed, _LOOK_INTERVAL.total_seconds())
            for collection in self._running.values():
                collection.stop()

    async def _wake_when(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self.live.streams_changed.fire()

    async def _look(self, group: asyncio.TaskGroup) -> None:
        self._completed.clear()
        try:
            async with self.unit_of_work.system(because="containers of all tenants run here") as tx:
                streams = await tx.streams.collected_on(self.node_id, limit=self.streams_max)
        except ModelyardError as error:
            logger.warning("open log streams could not be read", error=str(error))
            return
        for stream in streams:
            if stream.attempt_id in self._completed:
                continue
            if (collection := self._running.get(stream.attempt_id)) is not None:
                collection.update(stream)
            elif len(self._running) < self.streams_max:
                collection = self._running[stream.attempt_id] = Collection(stream)
                group.create_task(self._collect(collection))
        telemetry.STREAMS_COLLECTED.set(len(self._running))
        telemetry.LAG.set(sum(collection.lag_bytes for collection in self._running.values()))

    async def _collect(self, collection: Collection) -> None:
        """Collect one stream to its end, trying again while files, store or database fail."""
        stream = collection.stream
        try:
            while (pause := await self._step(collection)) is not None:
                collection.wake.clear()
                if not collection.is_stopping:
                    await is_set_within(collection.wake, pause.total_seconds())
        finally:
            del self._running[stream.attempt_id]

    async def _step(self, collection: Collection) -> timedelta | None:
        """Collect until the end or a failure; return when to try again, None for not at all."""
        stream = collection.stream
        try:
            if collection.record_count is None:
                collection.record_count = await self.collect_stream(collection)
            if collection.record_count is not None:
                # Tried again by itself: it may have been committed without an answer, and the
                # container be gone.
                await self.complete_stream(stream, record_count=collection.record_count)
                self._completed.add(stream.attempt_id)
        except ModelyardError as error:
            logger.warning(
                "log stream is tried again", attempt_id=stream.attempt_id, error=str(error)
            )
            pause = _RETRY_AFTER if error.retryable else _RETRY_AFTER_BUG
        except Exception as error:  # noqa: BLE001 a bug that one stream meets stops no other one
            logger.opt(exception=error).error(
                "log stream failed, is tried again", attempt_id=stream.attempt_id
            )
            pause = _RETRY_AFTER_BUG
        else:
            return None
        return None if collection.is_stopping else pause
