"""A log file with its rotated generations, read in the order of writing.

Owns: finding generations (`container.log`, then `.1`, `.2`, … older and older), holding each one
open from when it is first seen, so that removing it takes nothing from the reader, and finishing
one before the next begins. Blocking; runs on the adapter's threads.

Always holds: a chunk comes from one generation and its position is the end of its last whole line;
what may have been lost between two chunks is a `Gap` in the later one.
"""

import os
import re
import stat
import zlib
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from services.log_collector.adapters.container_files.json_file import corrupt, decode
from services.log_collector.domain.assembly import Gap, Item
from services.log_collector.domain.checkpoint import FilePosition
from services.log_collector.use_cases.ports import Chunk

LINE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of one line of the file: six times a line's bound, when each character is escaped."""

GENERATIONS_HELD_MAX: Final = 64
"""Of one container; beyond it the reader catches up before it opens more."""

_FINGERPRINT_BYTES: Final = 1024
_SNAPSHOT_TRIES_MAX: Final = 10

_ROTATED_AWAY: Final = Gap("output may be missing here: what followed was rotated away unread")
_TRUNCATED: Final = Gap("output may be missing here: the file was truncated")


@dataclass(slots=True)
class _Generation:
    """One open file and how far it has been read."""

    fd: int
    device: int
    inode: int
    offset: int = 0
    fingerprint: int = 0

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def read_lines(self, bytes_max: int) -> bytes:
        """Return the next whole lines, or nothing; does not move on."""
        for limit in (bytes_max, LINE_BYTES_MAX):
            raw = os.pread(self.fd, limit, self.offset)
            end = raw.rfind(b"\n") + 1
            if end or len(raw) < limit:
                return raw[:end]
        return b""

    def read_rest(self) -> bytes:
        """Return what stands behind the last newline; does not move on."""
        return os.pread(self.fd, LINE_BYTES_MAX, self.offset)

    def move_on(self, byte_count: int) -> FilePosition:
        if not self.offset:
            self.fingerprint = fingerprint(self.fd)
        self.offset += byte_count
        return FilePosition(self.device, self.inode, self.fingerprint, self.offset)

    def is_at(self, position: FilePosition) -> bool:
        """Tell whether the position was taken in this very file."""
        return (
            (self.device, self.inode) == (position.device, position.inode)
            and self.size() >= position.offset
            and fingerprint(self.fd) == position.fingerprint
        )

    def close(self) -> None:
        os.close(self.fd)


def fingerprint(fd: int) -> int:
    """Return a checksum of the first line, which holds a time stamp to the nanosecond."""
    return zlib.crc32(os.pread(fd, _FINGERPRINT_BYTES, 0).partition(b"\n")[0])


class Generations:
    """Reads one container's log from a position on; `folder_fd` is there once its folder is."""

    def __init__(self, root: Path, path: str, position: FilePosition | None) -> None:
        self._root = root
        *self._folders, self._name = PurePosixPath(path).parts
        self._rotated = re.compile(re.escape(self._name) + r"(?:\.([1-9][0-9]{0,3}))?")
        self._resume = position
        self._held: deque[_Generation | Gap] = deque()
        self._newest: _Generation | None = None
        self.folder_fd: int | None = None

    def read(self, bytes_max: int) -> Chunk:
        """Return the next whole lines, at most this many bytes of them (but one line at least)."""
        if self.folder_fd is None:
            self.folder_fd = self._open_folder()
        if self.folder_fd is None:
            return Chunk(is_absent=True)
        # Before reading: a generation may only be left at an end that was read after a newer one
        # was seen, or its last lines could be written in between.
        self._discover()
        items: list[Item] = []
        while self._held:
            head = self._held[0]
            if isinstance(head, Gap):
                items.append(head)
                self._held.popleft()
                continue
            if head.size() < head.offset:
                items.append(_TRUNCATED)
                head.offset = 0
            raw = head.read_lines(bytes_max)
            if raw:
                position = head.move_on(len(raw))
                return Chunk((*items, *decode(raw)), position, byte_count=len(raw))
            if rest := self._unreadable_rest(head):
                position = head.move_on(len(rest))
                return Chunk((*items, *corrupt(rest)), position, byte_count=len(rest))
            if len(self._held) == 1:
                break
            if rest := head.read_rest():
                position = head.move_on(len(rest))
                return Chunk((*items, *decode(rest)), position, byte_count=len(rest))
            self._held.popleft()
            head.close()
        return Chunk(tuple(items), is_absent=self._newest is None)

    def read_rest(self) -> Chunk:
        """Return what the last line without a newline holds, when nothing more will be written."""
        head = self._held[0] if self._held else None
        if not isinstance(head, _Generation) or not (rest := head.read_rest()):
            return Chunk()
        return Chunk(tuple(decode(rest)), head.move_on(len(rest)), byte_count=len(rest))

    def lag_bytes(self) -> int:
        """Return how many bytes are written and not yet read."""
        return sum(
            max(0, held.size() - held.offset)
            for held in self._held
            if isinstance(held, _Generation)
        )

    def close(self) -> None:
        """Let go of all files."""
        for held in self._held:
            if isinstance(held, _Generation):
                held.close()
        self._held.clear()
        if self.folder_fd is not None:
            os.close(self.folder_fd)
            self.folder_fd = None

    def _unreadable_rest(self, head: _Generation) -> bytes:
        """Return a full bound of bytes without any newline, or nothing."""
        rest = head.read_rest() if head.size() - head.offset >= LINE_BYTES_MAX else b""
        return rest if len(rest) == LINE_BYTES_MAX and b"\n" not in rest else b""

    def _discover(self) -> None:
        """Open each generation that is newer than the newest one held."""
        if len(self._held) >= GENERATIONS_HELD_MAX or not self._has_changed():
            return
        found = self._snapshot()
        if found is None:
            return  # it is being rotated right now; the next turn looks again
        known = next(
            (age for age, generation in enumerate(found) if self._is_known(generation)), None
        )
        fresh_count = len(found) if known is None else known + (self._newest is None)
        for generation in found[fresh_count:]:
            generation.close()
        if not fresh_count:
            return
        is_first_look = self._newest is None and self._resume is None
        if known is None and not (is_first_look and len(found) < GENERATIONS_HELD_MAX):
            self._held.append(_ROTATED_AWAY)
        self._held.extend(reversed(found[:fresh_count]))
        self._newest = found[0]
        self._resume = None

    def _is_known(self, generation: _Generation) -> bool:
        """Tell whether this is the newest one held, or else the one to go on in."""
        if self._newest is not None:
            return _is_same(generation, self._newest)
        if self._resume is None or not generation.is_at(self._resume):
            return False
        generation.offset = self._resume.offset
        generation.fingerprint = self._resume.fingerprint
        return True

    def _has_changed(self) -> bool:
        """Tell, at the price of one call, whether the file's name has moved to another file."""
        try:
            status = os.stat(self._name, dir_fd=self.folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            return self._newest is None
        newest = self._newest
        return newest is None or (status.st_dev, status.st_ino) != (newest.device, newest.inode)

    def _snapshot(self) -> Sequence[_Generation] | None:
        """Open all generations, newest first; None when they kept moving meanwhile."""
        for _ in range(_SNAPSHOT_TRIES_MAX):
            before = self._names()
            with ExitStack() as opened:
                generations = []
                for name in before:
                    if (generation := self._open(name)) is not None:
                        opened.callback(generation.close)
                        generations.append(generation)
                if len(generations) == len(before) and self._names() == before:
                    opened.pop_all()
                    return generations
        return None

    def _names(self) -> dict[str, int]:
        """Return the generations' names with their inodes, newest first."""
        assert self.folder_fd is not None, "the folder is opened first"
        found: dict[int, tuple[str, int]] = {}
        with os.scandir(self.folder_fd) as entries:
            for entry in entries:
                if (match := self._rotated.fullmatch(entry.name)) and entry.is_file(
                    follow_symlinks=False
                ):
                    found[int(match[1] or 0)] = (entry.name, entry.inode())
        return dict(found[age] for age in sorted(found)[:GENERATIONS_HELD_MAX])

    def _open(self, name: str) -> _Generation | None:
        try:
            # Non-blocking: a FIFO in the place of the file must not hang the reader.
            fd = os.open(
                name,
                os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                dir_fd=self.folder_fd,
            )
        except FileNotFoundError:
            return None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            return None
        return _Generation(fd, status.st_dev, status.st_ino)

    def _open_folder(self) -> int | None:
        """Walk down from the root; None where a folder is absent, or a link, which is refused."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        fd = -1
        try:
            fd = os.open(self._root, flags)
            for folder in self._folders:
                below = os.open(folder, flags | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = below
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            if isinstance(error, FileNotFoundError | NotADirectoryError):  # the latter: a link
                return None
            raise
        return fd


def _is_same(one: _Generation, other: _Generation) -> bool:
    return (one.device, one.inode) == (other.device, other.inode)
