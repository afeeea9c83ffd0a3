"""Tells when something in a folder changes, through the kernel's inotify.

Only a hint that makes reading prompt: whoever gets it looks at the files, and looks again from time
to time without it, so a lost event costs a delay and nothing else.
Source: inotify(7). The standard library has no binding, hence ctypes.
"""

import asyncio
import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Self

from loguru import logger

_IN_MODIFY: Final = 0x2
_IN_CLOSE_WRITE: Final = 0x8
_IN_MOVED_TO: Final = 0x80
_IN_CREATE: Final = 0x100
_IN_ONLYDIR: Final = 0x01000000
_MASK: Final = _IN_MODIFY | _IN_CLOSE_WRITE | _IN_MOVED_TO | _IN_CREATE | _IN_ONLYDIR
_EVENT: Final = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_READ_BYTES: Final = 64 * 1024
_OVERFLOW_WATCH: Final = -1


class FolderWatch:
    """Calls back on the event loop when a file in a watched folder is written or appears."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            logger.warning("inotify is not available, files are polled", errno=ctypes.get_errno())
        self._callbacks: dict[int, list[Callable[[], None]]] = {}

    def __enter__(self) -> Self:
        if self._fd >= 0:
            asyncio.get_running_loop().add_reader(self._fd, self._on_events)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)

    @contextmanager
    def watching(self, folder_fd: int, callback: Callable[[], None]) -> Iterator[bool]:
        """Call back while the block runs; gives False where the folder can't be watched."""
        # By descriptor, so that what is watched is what was opened.
        path = f"/proc/self/fd/{folder_fd}".encode()
        watch = self._libc.inotify_add_watch(self._fd, path, _MASK) if self._fd >= 0 else -1
        if watch < 0:
            yield False
            return
        self._callbacks.setdefault(watch, []).append(callback)
        try:
            yield True
        finally:
            self._callbacks[watch].remove(callback)
            if not self._callbacks[watch]:
                del self._callbacks[watch]
                self._libc.inotify_rm_watch(self._fd, watch)

    def _on_events(self) -> None:
        try:
            raw = os.read(self._fd, _READ_BYTES)
        except OSError as error:
            if error.errno in {errno.EAGAIN, errno.EINTR}:
                return
            raise
        changed: set[int] = set()
        start = 0
        while start < len(raw):
            watch, _mask, _cookie, name_bytes = _EVENT.unpack_from(raw, start)
            changed.add(watch)
            start += _EVENT.size + name_bytes
        if _OVERFLOW_WATCH in changed:
            changed.update(self._callbacks)
        for watch in changed:
            for callback in self._callbacks.get(watch, ()):
                callback()
