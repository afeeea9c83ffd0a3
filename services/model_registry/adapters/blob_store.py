"""Bytes on a file system, named by their SHA-256.

Owns: `<root>/sha256/ab/cdef…` (one file a digest) and `<root>/incoming/<store>/` (uploads that are
not complete). Who may see which digest is the database's business: bytes are stored once, whoever
sends them.
Always holds: a file under `sha256/` is complete, durable and has the digest that it is named for.
A crash leaves files under `incoming/` only; the next start on the same root sweeps those that no
living store holds.

File I/O and hashing run on a few threads of the store's own; a stream waits there for its turn, so
that each holds at most `WRITE_BYTES` and a chunk in memory.
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

from services.chassis.amounts import size_in_words
from services.chassis.errors import InvalidArgument, PayloadTooLarge, Unavailable
from services.model_registry import telemetry
from services.model_registry.domain.artifact import DIGEST_PREFIX, Artifact, Digest

CHUNK_BYTES: Final = 256 * 1024
"""How much is read at once; the contract's largest chunk."""
WRITE_BYTES: Final = 1024 * 1024
"""How much of a stream is gathered before it is written, so that small chunks cost little."""

Result = TypeVar("Result")


@asynccontextmanager
async def open_blob_store(
    root: Path, *, blob_bytes_max: int, io_threads: int
) -> AsyncIterator["FileBlobStore"]:
    """Open the store, after sweeping what a crash has left. Raises OSError."""
    with ThreadPoolExecutor(io_threads, thread_name_prefix="blobs") as threads:
        loop = asyncio.get_running_loop()
        incoming = await loop.run_in_executor(threads, _Incoming, root)
        try:
            yield FileBlobStore(root, incoming, threads, blob_bytes_max=blob_bytes_max)
        finally:
            await loop.run_in_executor(threads, incoming.close)


@dataclass(frozen=True, slots=True)
class ReceivedBlob:
    """Bytes that have arrived whole and have no name yet, or have one beside it."""

    artifact: Artifact
    _keep: Callable[[], Awaitable[None]]

    async def keep(self) -> None:
        """Have them under their digest, durably; again: no change while they are there.

        Raises Unavailable.
        """
        await self._keep()


class FileBlobStore:
    """Blobs below one folder; made by `open_blob_store`."""

    def __init__(
        self, root: Path, incoming: "_Incoming", threads: ThreadPoolExecutor, *, blob_bytes_max: int
    ) -> None:
        self._root = root
        self._incoming = incoming
        self._threads = threads
        self._blob_bytes_max = blob_bytes_max

    @asynccontextmanager
    async def received(
        self,
        chunks: AsyncIterator[bytes],
        *,
        digest: Digest | None,
        size_bytes: int | None,
    ) -> AsyncIterator["ReceivedBlob"]:
        """Give all of a stream, to be kept while the block lasts, or nothing.

        Raises InvalidArgument when it isn't what digest and size say, PayloadTooLarge as soon as
        that is certain, Unavailable when the disk is full or fails.
        """
        if size_bytes is not None and size_bytes > self._blob_bytes_max:
            raise PayloadTooLarge("artifact", bytes_max=self._blob_bytes_max)
        upload = _Upload(self._incoming.next_path())
        try:
            await self._receive(upload, chunks, size_bytes)
            artifact = Artifact(upload.digest, upload.size_bytes)
            if digest is not None and artifact.digest != digest:
                raise InvalidArgument("digest", f"the bytes have {artifact.digest}")
            path = self._path(artifact.digest)
            yield ReceivedBlob(artifact, lambda: self._in_thread(upload.keep, path))
            telemetry.BYTES_STORED.inc(artifact.size_bytes)
        except BaseException:
            telemetry.UPLOADS_ABANDONED.inc()
            raise
        finally:
            # Shielded: a caller that goes away twice must not leave its bytes here until a restart.
            await asyncio.shield(self._in_thread(upload.discard))

    async def read(self, artifact: Artifact) -> AsyncGenerator[bytes, None]:
        """Stream a file in chunks of at most `CHUNK_BYTES`."""
        download = _Download(self._path(artifact.digest))
        try:
            while chunk := await self._in_thread(download.read):
                telemetry.BYTES_READ.inc(len(chunk))
                yield chunk
        finally:
            await asyncio.shield(self._in_thread(download.close))

    async def delete(self, digest: Digest) -> None:
        """Delete a file; who is reading it reads on."""
        await self._in_thread(_delete, self._path(digest))

    async def _receive(
        self, upload: "_Upload", chunks: AsyncIterator[bytes], size_bytes: int | None
    ) -> None:
        received = 0
        pending = bytearray()
        async for chunk in chunks:
            received += len(chunk)
            if received > self._blob_bytes_max:
                raise PayloadTooLarge("artifact", bytes_max=self._blob_bytes_max)
            if size_bytes is not None and received > size_bytes:
                raise InvalidArgument("size_bytes", f"more than {size_in_words(size_bytes)} came")
            pending += chunk
            if len(pending) >= WRITE_BYTES:
                await self._in_thread(upload.write, pending)
                pending = bytearray()
        if size_bytes is not None and received != size_bytes:
            raise InvalidArgument(
                "size_bytes", f"{size_in_words(received)} came, not {size_in_words(size_bytes)}"
            )
        await self._in_thread(upload.write, pending)

    def _path(self, digest: Digest) -> Path:
        hexadecimal = digest.removeprefix(DIGEST_PREFIX)
        return self._root / "sha256" / hexadecimal[:2] / hexadecimal[2:]

    def _in_thread(self, call: Callable[..., Result], *arguments: object) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)


class _Incoming:
    """The folder of one store's uploads, locked as long as the store lives.

    The kernel drops the lock with its process: a folder that can be locked is a dead store's. Both
    sweeping and taking happen under the lock of the folder above, so that none is swept between its
    making and its locking.
    """

    def __init__(self, root: Path) -> None:
        parent = root / "incoming"
        parent.mkdir(parents=True, exist_ok=True)
        (root / "sha256").mkdir(exist_ok=True)
        _sync_folder(root)
        with _opened(parent) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for folder in parent.iterdir():
                _sweep_if_abandoned(folder)
            self._folder = Path(tempfile.mkdtemp(dir=parent))
            self._descriptor = _open_folder(self._folder)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._count = 0

    def next_path(self) -> Path:
        """Return a path that no other upload has."""
        self._count += 1
        return self._folder / str(self._count)

    def close(self) -> None:
        """Remove the folder and give up its lock; what resists is for the next sweep."""
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._descriptor)


class _Upload:
    """A file that is being written; it is made by the first write.

    Calls come one after the other, but for a `discard` while a thread is still at the `write` of a
    caller that was cancelled: hence the lock.
    """

    def __init__(self, path: Path) -> None:
        self.size_bytes = 0
        self._path = path
        self._twin = path.with_suffix(".twin")
        self._hash = hashlib.sha256()
        self._descriptor: int | None = None
        self._is_kept = False
        self._is_over = False
        self._lock = Lock()

    @property
    def digest(self) -> Digest:
        """The digest of what was written."""
        return Digest(DIGEST_PREFIX + self._hash.hexdigest())

    def write(self, data: bytearray) -> None:
        """Append bytes. Raises Unavailable."""
        with self._lock, _disk_errors():
            if self._is_over:
                return
            if self._descriptor is None:
                self._descriptor = os.open(
                    self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640
                )
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            self._hash.update(data)
            self.size_bytes += len(data)

    def keep(self, path: Path) -> None:
        """Make it durable under its final name, too; an equal file of that name is replaced.

        Again: only if that name is gone. Raises Unavailable.
        """
        with self._lock, _disk_errors():
            if self._is_over or (self._is_kept and path.exists()):
                return
            assert self._descriptor is not None, "an upload is written before it is kept"
            os.fsync(self._descriptor)
            path.parent.mkdir(exist_ok=True)
            self._twin.hardlink_to(self._path)
            self._twin.replace(path)
            _sync_folder(path.parent)
            _sync_folder(path.parent.parent)
            self._is_kept = True

    def discard(self) -> None:
        """Close it, and forget it but for the name under which it was kept."""
        with self._lock:
            self._is_over = True
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._path.unlink(missing_ok=True)
                self._twin.unlink(missing_ok=True)


class _Download:
    """A file that is being read, opened by the first read; the lock is as for `_Upload`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._is_over = False
        self._lock = Lock()

    def read(self) -> bytes:
        """Return the next chunk, nothing at the end."""
        with self._lock:
            if self._is_over:
                return b""
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            return os.read(self._descriptor, CHUNK_BYTES)

    def close(self) -> None:
        """Close it."""
        with self._lock:
            self._is_over = True
            if self._descriptor is not None:
                os.close(self._descriptor)


def _delete(path: Path) -> None:
    with _disk_errors(), suppress(FileNotFoundError):
        path.unlink()
        _sync_folder(path.parent)


def _sweep_if_abandoned(folder: Path) -> None:
    # Locked: its store lives. Not found: its store is closing, and removes it right now.
    with suppress(BlockingIOError, FileNotFoundError), _opened(folder) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Tell a full or failing disk from a bug: the caller may try again later, or elsewhere."""
    try:
        yield
    except OSError as error:
        raise Unavailable("artifact store") from error


def _sync_folder(folder: Path) -> None:
    with _opened(folder) as descriptor:
        os.fsync(descriptor)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = _open_folder(folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
