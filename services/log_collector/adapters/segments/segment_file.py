"""The segments of one attempt: files of blocks, named for the first sequence that they hold.

Owns: where in which file a sequence is found, and what a crash may have left at the end. Blocking;
runs on the store's threads.

Only the collector of the attempt writes, and only it cuts; readers stop at what isn't whole yet. An
index in memory holds a point every `INDEX_BYTES`, so that its size doesn't depend on how small the
blocks are.
"""

import os
import threading
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loguru import logger

from services.log_collector.adapters.segments.block_format import (
    HEADER_BYTES,
    BlockHeader,
    NotABlock,
)

INDEX_BYTES: Final = 256 * 1024
_READ_BYTES: Final = 1024 * 1024
SUFFIX: Final = ".seg"


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A whole block and where it ends."""

    header: BlockHeader
    body: bytes
    end: int


@dataclass(slots=True)
class Segment:
    """One file; `end` and `next_sequence` are those of the whole blocks that are known."""

    path: Path
    first_sequence: int
    end: int = 0
    next_sequence: int = 0
    _points: list[tuple[int, int]] = field(default_factory=list)
    """(first sequence, offset) of blocks at least INDEX_BYTES apart."""

    def __post_init__(self) -> None:
        self.next_sequence = self.first_sequence

    @classmethod
    def at(cls, folder: Path, first_sequence: int) -> "Segment":
        """Return the segment that begins with this sequence."""
        return cls(folder / f"{first_sequence:020}{SUFFIX}", first_sequence)

    def note(self, block: StoredBlock) -> None:
        """Remember the block that follows what is known."""
        start = block.end - HEADER_BYTES - block.header.body_bytes
        if not self._points or start - self._points[-1][1] >= INDEX_BYTES:
            self._points.append((block.header.first_sequence, start))
        self.end = block.end
        self.next_sequence = block.header.next_sequence

    def refresh(self) -> StoredBlock | None:
        """Read on to the last whole block and return it, if there are new ones."""
        last = None
        for block in self._read(self.end):
            if block.header.first_sequence != self.next_sequence:
                break
            self.note(block)
            last = block
        return last

    def blocks(self, after: int) -> Iterator[StoredBlock]:
        """Yield the blocks from the one that holds the sequence `after` + 1 on."""
        place = bisect_right(self._points, (after + 1, self.end)) - 1
        start = self._points[place][1] if place >= 0 else 0
        for block in self._read(start):
            if block.end > self.end:
                return
            if block.header.next_sequence > after + 1:
                yield block

    def _read(self, start: int) -> Iterator[StoredBlock]:
        """Yield whole blocks up to the first that isn't."""
        with self.path.open("rb", buffering=_READ_BYTES) as file:
            file.seek(start)
            while raw := file.read(HEADER_BYTES):
                try:
                    header = BlockHeader.parse(raw)
                    body = file.read(header.body_bytes)
                    header.check(body)
                except NotABlock as damage:
                    # At a segment's end: half written as yet. Inside: records are lost.
                    logger.debug(
                        "no whole block", path=str(self.path), at=start, reason=str(damage)
                    )
                    return
                start += HEADER_BYTES + header.body_bytes
                yield StoredBlock(header, body, start)


class Segments:
    """All segments of one attempt, oldest first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segments: list[Segment] = []
        self._lock = threading.Lock()

    def refresh(self) -> StoredBlock | None:
        """Take in what has been written since; return the newest block if that is new."""
        with self._lock:
            return self._refresh()

    def _refresh(self) -> StoredBlock | None:
        last = self._segments[-1].refresh() if self._segments else None
        known = {segment.path.name for segment in self._segments}
        for name in sorted(os.listdir(self.folder)):
            if name.endswith(SUFFIX) and name not in known:
                segment = Segment.at(self.folder, int(name.removesuffix(SUFFIX)))
                self._segments.append(segment)
                last = segment.refresh() or last
        return last

    @property
    def last(self) -> Segment | None:
        """The segment that is being written."""
        return self._segments[-1] if self._segments else None

    def add(self, first_sequence: int) -> Segment:
        """Begin the next segment."""
        segment = Segment.at(self.folder, first_sequence)
        self._segments.append(segment)
        return segment

    def blocks(self, after: int) -> Iterator[StoredBlock]:
        """Yield all blocks that hold records after this sequence."""
        for segment in list(self._segments):
            if segment.next_sequence > after + 1:
                yield from segment.blocks(after)
