"""The `LogStore` port on a local folder: `<root>/<attempt id>/<first sequence>.seg`.

Owns: appending so that a crash at any moment leaves whole blocks and at most one torn end; cutting
that end; reading by sequence; and the cursor of what has been published (`published.json`). The
newest block is the checkpoint: there is no other record of the position that could run ahead.
"""

import asyncio
import fcntl
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import zstandard
from loguru import logger

from services.chassis.errors import FailedPrecondition, Unavailable
from services.log_collector.adapters.segments.block_format import (
    BlockHeader,
    StreamIdentity,
    decompress,
    encode,
    split,
)
from services.log_collector.adapters.segments.segment_file import (
    SUFFIX,
    Segment,
    Segments,
    StoredBlock,
)
from services.log_collector.domain.checkpoint import Block, Checkpoint
from services.log_collector.domain.log_stream import LogStream
from services.log_collector.domain.records import Batch, LogFilter
from services.log_collector.use_cases.ports import Publishable, PublishableBlock, Scan

_WRITER_THREADS: Final = 2
_READER_THREADS: Final = 2
_ATTEMPTS_CACHED_MAX: Final = 256
_IDENTITY: Final = "stream.json"
_CURSOR: Final = "published.json"
_LOCK: Final = "lock"
_DELETED: Final = ".deleted"
"""Folders on their way out; no attempt has such a name."""
_SYNC_BYTES: Final = 8 * 1024 * 1024

R = TypeVar("R")


class PublishedCursor(msgspec.Struct, frozen=True):
    """How far an attempt's blocks are published, and the size of the segments when that was all."""

    sequence: int = 0
    stored_bytes: int = 0


@asynccontextmanager
async def open_segment_store(
    root: Path, *, segment_bytes_max: int
) -> AsyncIterator["SegmentStore"]:
    """Give access to the segments below a folder, which is made if it is absent.

    Raises FailedPrecondition while another process has it: two writers would tear each other's
    blocks.
    """
    with (
        _alone_in(root),
        ThreadPoolExecutor(_WRITER_THREADS, "segments-writer") as writers,
        ThreadPoolExecutor(_READER_THREADS, "segments-reader") as readers,
    ):
        yield SegmentStore(root, writers, readers, segment_bytes_max=segment_bytes_max)


class SegmentStore:
    """All attempts' segments below one folder; `open_segment_store` makes it."""

    def __init__(
        self,
        root: Path,
        writers: ThreadPoolExecutor,
        readers: ThreadPoolExecutor,
        *,
        segment_bytes_max: int,
    ) -> None:
        self._root = root
        self._writers = writers
        self._readers = readers
        self._segment_bytes_max = segment_bytes_max
        self._cached: OrderedDict[str, Segments] = OrderedDict()
        self._cache_lock = threading.Lock()

    @asynccontextmanager
    async def open_writer(self, stream: LogStream) -> AsyncIterator["SegmentWriter"]:
        """Open a stream's segments for its one collector, cutting what a crash has left torn."""
        folder = self._root / stream.attempt_id
        writer = SegmentWriter(
            stream, Segments(folder), self._writers, segment_bytes_max=self._segment_bytes_max
        )
        try:
            await writer.open()
            yield writer
        finally:
            writer.close()

    async def scan(self, attempt_id: str, *, after: int, wanted: LogFilter, bytes_max: int) -> Scan:
        """Look at the stored records after a sequence, about `bytes_max` bytes of them."""
        return await self._on(
            self._readers, lambda: self._scan(attempt_id, after, wanted, bytes_max)
        )

    async def publishable(
        self, attempt_id: str, *, bytes_max: int, block_bytes_max: int
    ) -> Publishable:
        """Return the next blocks to publish, none larger than `block_bytes_max`."""
        return await self._on(
            self._readers, lambda: self._publishable(attempt_id, bytes_max, block_bytes_max)
        )

    async def mark_published(self, attempt_id: str, *, through: int) -> None:
        """Move the cursor; a crash may lose the move, so that blocks are published again."""
        await self._on(self._writers, lambda: self._mark_published(attempt_id, through))

    async def delete(self, attempt_id: str) -> None:
        """Delete an attempt's folder, at once for whoever reads, after a crash in the next call."""
        await self._on(self._writers, lambda: self._delete(attempt_id))

    async def unpublished_attempts(self) -> Sequence[str]:
        """Return the attempts that have grown since their cursor was moved."""
        return await self._on(self._readers, self._unpublished_attempts)

    async def _on(self, threads: ThreadPoolExecutor, function: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(threads, _disk_errors()(function))

    def _segments(self, attempt_id: str) -> Segments:
        """Return the index of an attempt, up to date. Raises FileNotFoundError."""
        with self._cache_lock:
            segments = self._cached.setdefault(attempt_id, Segments(self._root / attempt_id))
            self._cached.move_to_end(attempt_id)
            while len(self._cached) > _ATTEMPTS_CACHED_MAX:
                self._cached.popitem(last=False)
        segments.refresh()
        return segments

    def _scan(self, attempt_id: str, after: int, wanted: LogFilter, bytes_max: int) -> Scan:
        batches: list[Batch] = []
        through, seen_bytes = after, 0
        try:
            segments = self._segments(attempt_id)
        except FileNotFoundError:
            return Scan((), after)
        for block in segments.blocks(after):
            if seen_bytes >= bytes_max:
                break
            header = block.header
            payload = header.payload(block.body)
            seen_bytes += zstandard.frame_content_size(payload)
            through = header.next_sequence - 1
            if not wanted.may_match(first_time=header.first_time, last_time=header.last_time):
                continue
            batch = decompress(payload, contains=wanted.contains)
            if batch is not None:
                batches.append(batch.after(after))
        return Scan(batches, through)

    def _publishable(self, attempt_id: str, bytes_max: int, block_bytes_max: int) -> Publishable:
        try:
            segments = self._segments(attempt_id)
        except FileNotFoundError:
            return Publishable()  # deleted
        identity = _read(segments.folder / _IDENTITY, StreamIdentity)
        if identity is None and not segments.folder.exists():
            return Publishable()  # deleted just now
        cursor = _read(segments.folder / _CURSOR, PublishedCursor)
        assert identity is not None, f"{segments.folder} has blocks but no identity"
        found: list[PublishableBlock] = []
        seen_bytes = 0
        for block in segments.blocks(cursor.sequence if cursor else 0):
            header = block.header
            if not header.record_count:
                continue
            if seen_bytes >= bytes_max:
                return Publishable(found, has_more=True)
            seen_bytes += header.payload_bytes
            payload = header.payload(block.body)
            pieces = [(header.first_sequence, header.record_count, payload)]
            if len(payload) > block_bytes_max:
                pieces = split(payload, identity, bytes_max=block_bytes_max)
            found += [
                PublishableBlock(attempt_id, identity.tenant, first_sequence, count, payload)
                for first_sequence, count, payload in pieces
            ]
        return Publishable(found)

    def _mark_published(self, attempt_id: str, through: int) -> None:
        folder = self._root / attempt_id
        if not folder.exists():
            return  # deleted
        # Before looking for what is not published: a block that is written meanwhile is in neither.
        stored_bytes = _stored_bytes(folder)
        last = self._segments(attempt_id).last
        is_all = last is not None and last.next_sequence == through + 1
        cursor = PublishedCursor(through, stored_bytes if is_all else 0)
        # Not synced: what a loss of power takes from the cursor is published again.
        _replace(folder / _CURSOR, cursor, is_synced=False)

    def _delete(self, attempt_id: str) -> None:
        with self._cache_lock:
            self._cached.pop(attempt_id, None)
        deleted = self._root / _DELETED
        deleted.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            (self._root / attempt_id).rename(deleted / attempt_id)
        if (deleted / attempt_id).exists():
            shutil.rmtree(deleted / attempt_id)
        _sync_folder(self._root)

    def _unpublished_attempts(self) -> Sequence[str]:
        unpublished = []
        for folder in self._root.iterdir():
            if not folder.is_dir() or folder.name == _DELETED:
                continue
            cursor = _read(folder / _CURSOR, PublishedCursor) or PublishedCursor()
            if _stored_bytes(folder) != cursor.stored_bytes:
                unpublished.append(folder.name)
        return unpublished


class SegmentWriter:
    """Appends one stream's blocks; `SegmentStore.open_writer` makes it."""

    def __init__(
        self,
        stream: LogStream,
        segments: Segments,
        threads: ThreadPoolExecutor,
        *,
        segment_bytes_max: int,
    ) -> None:
        self._identity = StreamIdentity(
            attempt_id=stream.attempt_id,
            tenant=stream.tenant,
            owner_id=stream.owner_id,
            attempt_number=stream.attempt_number,
        )
        self._segments = segments
        self._threads = threads
        self._segment_bytes_max = segment_bytes_max
        self._fd = -1
        self._lock = threading.Lock()
        self.checkpoint = Checkpoint()
        self.unsynced_bytes = 0

    async def open(self) -> None:
        """Read back the newest block and cut what stands behind it."""
        await self._run(self._open)

    async def append(self, block: Block) -> None:
        """Write a block; it is readable afterwards. Raises Unavailable when the disk refuses it."""
        await self._run(lambda: self._append(block))

    async def sync(self) -> None:
        """Return when all that was appended survives the machine. Raises Unavailable."""
        await self._run(self._sync)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    async def _run(self, function: Callable[[], None]) -> None:
        def locked() -> None:
            with self._lock, _disk_errors():
                function()

        await asyncio.get_running_loop().run_in_executor(self._threads, locked)

    def _open(self) -> None:
        folder = self._segments.folder
        if not folder.exists():
            folder.mkdir(mode=0o700)
            _sync_folder(folder.parent)
        if _read(folder / _IDENTITY, StreamIdentity) is None:
            _replace(folder / _IDENTITY, self._identity, is_synced=True)
            _sync_folder(folder)
        newest = self._segments.refresh()
        if newest is not None:
            self.checkpoint = newest.header.checkpoint(newest.body)
        if (segment := self._segments.last) is not None:
            self._fd = os.open(segment.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            torn_bytes = os.fstat(self._fd).st_size - segment.end
            if torn_bytes:
                logger.info("torn block cut", path=str(segment.path), torn_bytes=torn_bytes)
                os.ftruncate(self._fd, segment.end)

    def _append(self, block: Block) -> None:
        raw = encode(block, self._identity)
        segment = self._segments.last
        if segment is None or segment.end + len(raw) > self._segment_bytes_max:
            segment = self._begin_segment(block.batch.first_sequence)
        try:
            _write(self._fd, raw)
        except OSError:
            os.ftruncate(self._fd, segment.end)
            raise
        header = BlockHeader.parse(raw)
        segment.note(StoredBlock(header, b"", segment.end + len(raw)))
        self.checkpoint = block.checkpoint
        self.unsynced_bytes += len(raw)
        if self.unsynced_bytes >= _SYNC_BYTES:
            self._sync()

    def _begin_segment(self, first_sequence: int) -> Segment:
        if self._fd >= 0:
            self._sync()
            os.close(self._fd)
            self._fd = -1
        path = Segment.at(self._segments.folder, first_sequence).path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _sync_folder(self._segments.folder)
        return self._segments.add(first_sequence)

    def _sync(self) -> None:
        if self._fd >= 0 and self.unsynced_bytes:
            os.fdatasync(self._fd)
            self.unsynced_bytes = 0


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Tell a full or failing disk from a bug: trying again goes on where the store ends."""
    try:
        yield
    except OSError as error:
        raise Unavailable("log store") from error


@contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (root / _LOCK).open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FailedPrecondition("another log collector writes to this store") from error
        yield


def _write(fd: int, raw: bytes) -> None:
    view = memoryview(raw)
    while view:
        view = view[os.write(fd, view) :]


def _stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"*{SUFFIX}"))


def _read(path: Path, kind: type[R]) -> R | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _replace(path: Path, value: object, *, is_synced: bool) -> None:
    """Write so that a crash of this process leaves a whole file: the old one or the new one."""
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        file.write(msgspec.json.encode(value))
        file.flush()
        if is_synced:
            os.fsync(file.fileno())
    beside.rename(path)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
