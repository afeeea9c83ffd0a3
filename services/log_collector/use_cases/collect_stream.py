"""Carry one container's output from its files into the store.

Read, assemble, number, show to followers, store: in this order, by one task a stream. A block is
stored when it is full or its first record has waited `block_wait_max`; until then its records are
followed from memory. After a crash the same bytes give the same records under the same sequences,
so what a follower has seen is never another record afterwards.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from services.chassis.clock import Clock
from services.chassis.waiting import is_set_within
from services.log_collector import telemetry
from services.log_collector.domain.assembly import Carry, Gap, assemble, finished
from services.log_collector.domain.checkpoint import FilePosition, OpenBlock
from services.log_collector.domain.log_stream import LogStream, StreamState
from services.log_collector.domain.records import Lines, LogFilter, Mark, joined
from services.log_collector.use_cases.live_output import LiveOutput, Tail
from services.log_collector.use_cases.ports import (
    BlockWriter,
    Chunk,
    ContainerOutput,
    LogStore,
    OutputFile,
)
from services.log_collector.use_cases.unpublished import Unpublished

_ABSENT: Final = Gap("output may be missing here: the container's log file was absent")
_UNSEEN: Final = Gap("output may be missing here: nobody saw the container end")
_ANY: Final = LogFilter()


@dataclass(frozen=True, slots=True)
class CollectingBounds:
    """How much at once and how long; `settings.CollectSettings` says what each one does."""

    chunk_bytes_max: int = 384 * 1024
    block_characters_max: int = 256 * 1024
    block_wait_max: timedelta = timedelta(milliseconds=100)
    read_interval_min: timedelta = timedelta(milliseconds=5)
    sync_interval: timedelta = timedelta(seconds=1)
    settle_after_end: timedelta = timedelta(milliseconds=100)
    absent_after_end_max: timedelta = timedelta(seconds=10)
    absent_recheck_max: timedelta = timedelta(seconds=1)


@dataclass(slots=True)
class Collection:
    """The collecting of one stream, as its owner steers it."""

    stream: LogStream
    is_stopping: bool = False
    record_count: int | None = None
    """How many there are, once all are stored. The files may be gone from then on."""
    lag_bytes: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def has_ended(self) -> bool:
        """Tell whether the container will write no more."""
        return self.stream.state is StreamState.ENDING

    def update(self, stream: LogStream) -> None:
        """Take in that the stream has moved on."""
        if stream.state is not self.stream.state:
            self.stream = stream
            self.wake.set()

    def stop(self) -> None:
        """Ask it to store what it has and return."""
        self.is_stopping = True
        self.wake.set()


@dataclass(frozen=True, slots=True)
class CollectStream:
    """Collect a stream until all that its container left is stored and synced."""

    output: ContainerOutput
    store: LogStore
    live: LiveOutput
    unpublished: Unpublished
    clock: Clock
    bounds: CollectingBounds

    async def __call__(self, collection: Collection) -> int | None:
        """Return the number of records; None when it was stopped before the end.

        Raises Unavailable when files or store fail; trying again goes on where the store ends.
        """
        stream = collection.stream
        assert stream.location is not None, "a stream that is collected has a location"
        async with self.store.open_writer(stream) as writer:
            checkpoint = writer.checkpoint
            tail = self.live.open_tail(stream, stored_through=checkpoint.next_sequence - 1)
            try:
                with self.output.follow(
                    stream.location, checkpoint.position, collection.wake.set
                ) as file:
                    return await _Collecting(self, collection, file, writer, tail).run()
            finally:
                self.live.close_tail(stream)


class _Collecting:
    """One run: the open block, and since when what has been waiting."""

    def __init__(
        self,
        use_case: CollectStream,
        collection: Collection,
        file: OutputFile,
        writer: BlockWriter,
        tail: Tail,
    ) -> None:
        self._clock = use_case.clock
        self._bounds = use_case.bounds
        self._unpublished = use_case.unpublished
        self._collection = collection
        self._file = file
        self._records = use_case.store
        self._writer = writer
        self._tail = tail
        self._block = OpenBlock(writer.checkpoint)
        self._block_began = 0.0
        self._synced = self._clock.monotonic()
        self._last_news = self._clock.monotonic()
        self._absent_recheck_s = 0.0

    async def run(self) -> int | None:
        while True:
            # Before reading, so that an end of the file that is read afterwards is the end.
            self._collection.wake.clear()
            has_ended = self._collection.has_ended
            chunk = await self._file.read(self._bounds.chunk_bytes_max)
            await self._take(chunk)
            if self._collection.is_stopping:
                await self._store()
                await self._writer.sync()
                return None
            self._collection.lag_bytes = self._file.lag_bytes()
            await self._store_if_due()
            if chunk.position is not None:
                self._last_news = self._clock.monotonic()
                if chunk.byte_count < self._bounds.chunk_bytes_max // 2:
                    # A writer that is heard of line by line: let some gather.
                    await asyncio.sleep(self._bounds.read_interval_min.total_seconds())
            elif has_ended and self._has_settled(chunk):
                return await self._finish(chunk)
            else:
                await self._wait(chunk)

    async def _take(self, chunk: Chunk) -> None:
        """Number what was read, and show it to followers."""
        if not chunk.items and chunk.position is None:
            return
        parts: list[Lines] = []
        carry = self._block.checkpoint.carry
        for item in chunk.items:
            lines, carry = assemble(item, carry, now=self._clock.now())
            parts.append(lines)
        lines = joined(parts)
        if self._block.character_count + lines.character_count > self._bounds.block_characters_max:
            await self._store()
        self._add(lines, carry, chunk.position or self._block.checkpoint.position)
        telemetry.BYTES_READ.inc(chunk.byte_count)

    def _add(self, lines: Lines, carry: Carry, position: FilePosition | None) -> None:
        if not len(self._block):
            self._block_began = self._clock.monotonic()
        batch = self._block.add(lines, carry=carry, position=position)
        if len(lines):
            self._tail.append(batch)
            telemetry.RECORDS_COLLECTED.inc(len(lines))
            for mark in lines.marks.values():
                telemetry.RECORDS_MARKED.labels(mark).inc()

    async def _store_if_due(self) -> None:
        now = self._clock.monotonic()
        if (
            self._block.character_count >= self._bounds.block_characters_max
            or now - self._block_began >= self._bounds.block_wait_max.total_seconds()
        ):
            await self._store()
        if (
            self._writer.unsynced_bytes
            and now - self._synced >= self._bounds.sync_interval.total_seconds()
        ):
            await self._writer.sync()
            self._synced = now

    async def _store(self) -> None:
        """Write the open block, if there is anything in it, and begin the next."""
        if not len(self._block):
            return
        block = self._block.closed()
        await self._writer.append(block)
        self._block = OpenBlock(block.checkpoint)
        self._tail.stored(block.batch.last_sequence)
        self._unpublished.add(self._collection.stream.attempt_id)

    async def _wait(self, chunk: Chunk) -> None:
        """Wait for a sign of change, but no longer than the open block or the disk may wait."""
        if chunk.is_absent:
            # Perhaps another machine's container: look less and less often.
            self._absent_recheck_s = min(
                2 * self._absent_recheck_s or self._file.recheck_after.total_seconds(),
                self._bounds.absent_recheck_max.total_seconds(),
            )
            waits = [self._absent_recheck_s]
        else:
            waits = [self._file.recheck_after.total_seconds()]
        now = self._clock.monotonic()
        if len(self._block):
            waits.append(self._block_began + self._bounds.block_wait_max.total_seconds() - now)
        if self._writer.unsynced_bytes:
            waits.append(self._synced + self._bounds.sync_interval.total_seconds() - now)
        if self._collection.has_ended:
            waits.append(self._bounds.settle_after_end.total_seconds())
        await is_set_within(self._collection.wake, max(0.0, min(waits)))

    def _has_settled(self, chunk: Chunk) -> bool:
        """Tell whether the end has been quiet for long enough to be the end."""
        quiet = (
            self._bounds.absent_after_end_max if chunk.is_absent else self._bounds.settle_after_end
        )
        return self._clock.monotonic() - self._last_news >= quiet.total_seconds()

    async def _finish(self, chunk: Chunk) -> int:
        """Store what the end completes: a last line without newline, a note of what is missing."""
        if not chunk.is_absent:
            await self._take(await self._file.read_rest())
        checkpoint = self._block.checkpoint
        carry = Carry(last_time=checkpoint.carry.last_time)
        self._add(finished(checkpoint.carry), carry, checkpoint.position)
        await self._store()
        if chunk.is_absent:
            await self._note(_ABSENT)
        elif not self._collection.stream.is_end_seen:
            await self._note(_UNSEEN)
        await self._writer.sync()
        return self._block.checkpoint.next_sequence - 1

    async def _note(self, gap: Gap) -> None:
        """End the stream with a mark, unless a try that did not get to complete it has."""
        last_sequence = self._block.checkpoint.next_sequence - 1
        if last_sequence:
            attempt_id = self._collection.stream.attempt_id
            scan = await self._records.scan(
                attempt_id, after=last_sequence - 1, wanted=_ANY, bytes_max=1
            )
            if any(
                record.mark is Mark.GAP and record.text == gap.reason
                for record in _ANY.records_of(scan.batches)
            ):
                return
        await self._take(Chunk([gap]))
        await self._store()
