"""The `ContainerOutput` port: a container's log file in asyncio, one bounded chunk at a time."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from services.chassis.errors import Unavailable
from services.log_collector.adapters.container_files.generations import Generations
from services.log_collector.adapters.container_files.inotify import FolderWatch
from services.log_collector.domain.checkpoint import FilePosition
from services.log_collector.domain.log_stream import LogLocation
from services.log_collector.use_cases.ports import Chunk

_THREADS: Final = 2
_RECHECK_WATCHED: Final = timedelta(seconds=1)
_RECHECK_POLLED: Final = timedelta(milliseconds=25)


@asynccontextmanager
async def open_container_files(root: Path) -> AsyncIterator["ContainerFiles"]:
    """Give access to the containers folder, which is only read."""
    with FolderWatch() as watch, ThreadPoolExecutor(_THREADS, "container-files") as threads:
        yield ContainerFiles(root, watch, threads)


class ContainerFiles:
    """Container output below one root; `open_container_files` makes it."""

    def __init__(self, root: Path, watch: FolderWatch, threads: ThreadPoolExecutor) -> None:
        self._root = root
        self._watch = watch
        self._threads = threads

    @contextmanager
    def follow(
        self,
        location: LogLocation,
        position: FilePosition | None,
        on_change: Callable[[], None],
    ) -> Iterator["ContainerFile"]:
        """Read one container's output from a position on."""
        file = ContainerFile(
            Generations(self._root, location.path, position), self._watch, self._threads, on_change
        )
        try:
            yield file
        finally:
            file.close()


class ContainerFile:
    """One container's output, over rotations."""

    def __init__(
        self,
        generations: Generations,
        watch: FolderWatch,
        threads: ThreadPoolExecutor,
        on_change: Callable[[], None],
    ) -> None:
        self._generations = generations
        self._watch = watch
        self._threads = threads
        self._on_change = on_change
        self._watched = ExitStack()
        self._is_watched = False
        # A cancelled read goes on in its thread; its files may not be closed under it.
        self._lock = threading.Lock()
        self.recheck_after = _RECHECK_POLLED

    async def read(self, bytes_max: int) -> Chunk:
        """Return the next whole lines; empty at the end of what is written so far."""
        chunk = await self._run(lambda: self._generations.read(bytes_max))
        # The folder must be watched before the read that finds nothing is trusted: read again.
        if self._start_watching():
            return chunk if chunk.items else await self.read(bytes_max)
        return chunk

    async def read_rest(self) -> Chunk:
        """Return the last line if it lacks its newline; only after the container has ended."""
        return await self._run(self._generations.read_rest)

    def lag_bytes(self) -> int:
        """Return how many bytes are written and not yet read."""
        return self._generations.lag_bytes()

    def close(self) -> None:
        """Let go of files and watches."""
        self._watched.close()
        with self._lock:
            self._generations.close()

    def _start_watching(self) -> bool:
        folder = self._generations.folder_fd
        if folder is None or self._is_watched:
            return False
        self._is_watched = True
        if self._watched.enter_context(self._watch.watching(folder, self._on_change)):
            self.recheck_after = _RECHECK_WATCHED
        return True

    async def _run(self, read: Callable[[], Chunk]) -> Chunk:
        def locked() -> Chunk:
            try:
                with self._lock:
                    return read()
            except OSError as error:
                raise Unavailable("container output") from error

        return await asyncio.get_running_loop().run_in_executor(self._threads, locked)
