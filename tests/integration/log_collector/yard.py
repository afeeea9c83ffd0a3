"""The collector's core on a temporary folder: real files and segments, a database in memory."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from services.chassis.clock import SystemClock
from services.chassis.errors import PayloadTooLarge, Unavailable
from services.chassis.tenancy import TenantId
from services.log_collector.adapters.container_files.output import open_container_files
from services.log_collector.adapters.segments.store import SegmentStore, open_segment_store
from services.log_collector.domain.log_stream import LogStream, StreamState
from services.log_collector.domain.records import LogFilter, LogPosition
from services.log_collector.use_cases.collect_stream import CollectingBounds, CollectStream
from services.log_collector.use_cases.collect_streams import CollectStreams
from services.log_collector.use_cases.complete_stream import CompleteStream
from services.log_collector.use_cases.end_stream import EndStream
from services.log_collector.use_cases.expect_stream import AttemptEvent, ExpectStream
from services.log_collector.use_cases.follow_logs import FollowLogs
from services.log_collector.use_cases.live_output import LiveOutput
from services.log_collector.use_cases.open_stream import OpenStream
from services.log_collector.use_cases.output_reader import OutputReader
from services.log_collector.use_cases.ports import PublishableBlock
from services.log_collector.use_cases.publish_blocks import PublishBlocks
from services.log_collector.use_cases.read_logs import ReadLogs
from services.log_collector.use_cases.unpublished import Unpublished
from tests.integration.log_collector.fakes import MemoryDatabase, until
from tests.unit.log_collector.builders import NOW, ContainerLog, a_stream

ANY = LogFilter()
BEGINNING = LogPosition(attempt_number=0, sequence=0)
ACME = TenantId("acme")
BOUNDS = CollectingBounds(
    block_wait_max=timedelta(milliseconds=20),
    settle_after_end=timedelta(milliseconds=20),
    absent_after_end_max=timedelta(milliseconds=60),
)


class FakePublisher:
    """Keeps what it is sent; refuses everything while `is_down`, and one block for its size.

    Behind a refused block it keeps nothing in the same call, as producers do.
    """

    def __init__(self) -> None:
        self.published: list[PublishableBlock] = []
        self.is_down = False
        self.too_large_sequence = 0

    async def publish(self, blocks: Sequence[PublishableBlock]) -> Sequence[Exception | None]:
        if self.is_down:
            return [Unavailable("kafka") for _ in blocks]
        refusal: Exception | None = None
        outcomes = []
        for block in blocks:
            if block.first_sequence == self.too_large_sequence:
                refusal = PayloadTooLarge("record", bytes_max=1)
            if refusal is None:
                self.published.append(block)
            outcomes.append(refusal)
        return outcomes

    @property
    def last_sequence(self) -> int:
        """Return the sequence that came last."""
        return self.published[-1].last_sequence if self.published else 0

    def sequences(self) -> list[int]:
        """Return all sequences in the order in which they came."""
        return [
            block.first_sequence + index
            for block in self.published
            for index in range(block.record_count)
        ]


@dataclass
class Yard:
    """A running collector."""

    database: MemoryDatabase
    store: SegmentStore
    publisher: FakePublisher
    live: LiveOutput
    expect_stream: ExpectStream
    open_stream: OpenStream
    end_stream: EndStream
    read_logs: ReadLogs
    follow_logs: FollowLogs
    containers_root: Path
    _logs: list[ContainerLog] = field(default_factory=list)
    _event_count: int = 0

    def container(self, stream: LogStream) -> ContainerLog:
        """Return the log file of a stream's container."""
        log = ContainerLog(self.containers_root, stream.attempt_id)
        self._logs.append(log)
        return log

    def event(self, stream: LogStream) -> AttemptEvent:
        """Return a fresh event of the stream's attempt."""
        self._event_count += 1
        return AttemptEvent(
            event_id=f"evt_{self._event_count}",
            tenant=stream.tenant,
            attempt_id=stream.attempt_id,
            owner_kind=stream.owner_kind,
            owner_id=stream.owner_id,
            attempt_number=stream.attempt_number,
            node_id=stream.node_id,
            at=NOW,
            location=stream.location,
        )

    def state(self, stream: LogStream) -> StreamState:
        """Return the state that the database has."""
        return self.database.rows[stream.attempt_id].state

    async def texts(
        self, owner_id: str = "job_1", *, after: LogPosition = BEGINNING, wanted: LogFilter = ANY
    ) -> list[str]:
        """Read all pages."""
        texts: list[str] = []
        while True:
            page = await self.read_logs(
                ACME, owner_id, after=after, record_count_max=7, wanted=wanted
            )
            texts += [record.text for _, record in page.records]
            if page.next == after:
                return texts
            after = page.next

    async def followed(
        self, owner_id: str = "job_1", *, after: LogPosition = BEGINNING, wanted: LogFilter = ANY
    ) -> list[str]:
        """Follow to the end."""
        texts: list[str] = []
        is_complete = False
        async for page in self.follow_logs(ACME, owner_id, after=after, wanted=wanted):
            texts += [record.text for _, record in page.records]
            is_complete = page.is_complete
        assert is_complete
        return texts

    async def until_seen(self, stream: LogStream, sequence: int) -> None:
        """Wait until followers can have this record."""
        await until(
            lambda: (
                (tail := self.live.tail(stream.attempt_id)) is not None
                and tail.last_sequence >= sequence
            )
        )

    async def until_stored(self, stream: LogStream, sequence: int) -> None:
        """Wait until this record is in the store."""
        await until(
            lambda: (
                (tail := self.live.tail(stream.attempt_id)) is not None
                and tail.stored_through >= sequence
            )
        )

    def close(self) -> None:
        """Close the containers' files."""
        for log in self._logs:
            log.close()


@asynccontextmanager
async def running_yard(
    root: Path, *streams: LogStream, bounds: CollectingBounds = BOUNDS, streams_max: int = 10
) -> AsyncIterator[Yard]:
    """Run a collector until the block ends."""
    containers_root = root / "containers"
    containers_root.mkdir(exist_ok=True)
    clock = SystemClock()
    database, publisher = MemoryDatabase(*streams), FakePublisher()
    live, unpublished = LiveOutput(), Unpublished()
    async with AsyncExitStack() as stack:
        files = await stack.enter_async_context(open_container_files(containers_root))
        store = await stack.enter_async_context(
            open_segment_store(root / "store", segment_bytes_max=1 << 20)
        )
        reader = OutputReader(store, live)
        collect_streams = CollectStreams(
            database,
            CollectStream(files, store, live, unpublished, clock, bounds),
            CompleteStream(database, live, clock),
            live,
            node_id=None,
            streams_max=streams_max,
        )
        publish_blocks = PublishBlocks(store, publisher, unpublished)
        yard = Yard(
            database,
            store,
            publisher,
            live,
            ExpectStream(database, live),
            OpenStream(database, live),
            EndStream(database, live),
            ReadLogs(database, reader, clock),
            FollowLogs(database, reader, live, clock, followers_max=3),
            containers_root,
        )
        stack.callback(yard.close)
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(collect_streams.run(stopping))
            group.create_task(publish_blocks.run(stopping))
            try:
                yield yard
            finally:
                stopping.set()


__all__ = ["ACME", "ANY", "BEGINNING", "Yard", "a_stream", "running_yard"]
