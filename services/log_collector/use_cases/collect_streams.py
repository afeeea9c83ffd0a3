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
            while not await self._is_done(collection):
                collection.wake.clear()
                if not collection.is_stopping:
                    await is_set_within(collection.wake, _RETRY_AFTER.total_seconds())
        finally:
            del self._running[stream.attempt_id]

    async def _is_done(self, collection: Collection) -> bool:
        stream = collection.stream
        try:
            record_count = await self.collect_stream(collection)
            if record_count is not None:
                await self.complete_stream(stream, record_count=record_count)
                self._completed.add(stream.attempt_id)
        except ModelyardError as error:
            if not error.retryable:
                raise
            logger.warning(
                "log stream is tried again", attempt_id=stream.attempt_id, error=str(error)
            )
            return collection.is_stopping
        return True
