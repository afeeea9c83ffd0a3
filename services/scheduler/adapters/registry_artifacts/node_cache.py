"""Files of this node by tenant and digest, within a bound.

Owns: which bytes are kept, and that they are what their digest says: each hold checks it, so a
file that something has changed is fetched again. Always holds: what is held is not dropped; each
tenant has its own files, since having bytes means having been given them.
"""

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from services.chassis.errors import PayloadTooLarge, Unavailable
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.node_failures import node_failures

Download = Callable[["BoundedFile"], Awaitable[None]]
"""Writes the bytes of a digest into a file."""

_INCOMING: Final = ".incoming"


class _File(NamedTuple):
    used_at_ns: int
    size_bytes: int
    path: Path


class NodeCache:
    """Keeps at most `bytes_max`, dropping what was not used for longest."""

    def __init__(self, root: Path, *, bytes_max: int) -> None:
        self._root = root
        self._bytes_max = bytes_max
        self._holders: Counter[Path] = Counter()
        self._locks: dict[Path, asyncio.Lock] = {}
        shutil.rmtree(root / _INCOMING, ignore_errors=True)  # what a crash left half fetched
        (root / _INCOMING).mkdir(parents=True)

    @asynccontextmanager
    async def held(self, tenant: TenantId, digest: str, download: Download) -> AsyncIterator[Path]:
        """Give a file with these bytes, fetched once for many that ask at the same time.

        Raises what `download` raises, PayloadTooLarge if it is larger than the whole cache,
        Unavailable while the node's disk does not take it.
        """
        path = self._root / tenant / digest.replace(":", "-")
        self._holders[path] += 1
        try:
            async with self._locks.setdefault(path, asyncio.Lock()):
                with node_failures():
                    if await asyncio.to_thread(digest_of, path) != digest:
                        await self._fetch(path, digest, download)
                    os.utime(path)  # its last use
            yield path
        finally:
            self._holders[path] -= 1
            if self._holders[path] == 0:
                del self._holders[path], self._locks[path]

    async def purge(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete files of these tenants, but for what is held; return how many, `limit` at most.

        What the node's disk does not let go holds up no others; raises Unavailable when that is
        all there is.
        """
        with node_failures():
            files = await asyncio.to_thread(self._files_of, frozenset(tenants))
            # No await from here on: what is not held now stays so until it is gone.
            gone: list[Path] = []
            failure: OSError | None = None
            for path in (path for path in files if not self._holders[path]):
                if len(gone) == limit:
                    break
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    failure = error
                else:
                    gone.append(path)
            for folder in {path.parent for path in gone}:
                with suppress(OSError):  # there are others in it
                    folder.rmdir()
            if failure is not None and not gone:
                raise failure
        return len(gone)

    async def _fetch(self, path: Path, digest: str, download: Download) -> None:
        with self._incoming() as incoming:
            with incoming.open("wb") as file:
                await download(BoundedFile(file, bytes_max=self._bytes_max))
            if await asyncio.to_thread(digest_of, incoming) != digest:
                raise Unavailable(f"artifact {digest}")  # other bytes came: try again
            incoming.chmod(0o444)
            path.parent.mkdir(exist_ok=True)
            incoming.replace(path)
        self._drop_unused(await asyncio.to_thread(self._files))

    @contextmanager
    def _incoming(self) -> Iterator[Path]:
        descriptor, name = tempfile.mkstemp(dir=self._root / _INCOMING)
        os.close(descriptor)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _files(self) -> Sequence[_File]:
        """Return what is there, the longest unused first."""
        files = []
        for path in self._root.glob("*/sha256-*"):
            with suppress(FileNotFoundError):  # another fetch has dropped it just now
                status = path.stat()
                files.append(_File(status.st_mtime_ns, status.st_size, path))
        return sorted(files)

    def _files_of(self, tenants: Collection[TenantId]) -> Sequence[Path]:
        """Return the files of these tenants; the others' are not looked at."""
        folders = [folder for folder in self._root.iterdir() if folder.name in tenants]
        return sorted(path for folder in folders for path in folder.glob("sha256-*"))

    def _drop_unused(self, files: Sequence[_File]) -> None:
        """Get back below the bound. No await: what is not held now stays so until it is gone."""
        used = sum(file.size_bytes for file in files)
        for file in files:
            if used <= self._bytes_max:
                return
            if not self._holders[file.path]:
                file.path.unlink(missing_ok=True)
                used -= file.size_bytes


class BoundedFile:
    """A file that refuses to grow beyond a bound."""

    def __init__(self, file: BinaryIO, *, bytes_max: int) -> None:
        self._file = file
        self._bytes_max = bytes_max
        self._bytes = 0

    def write(self, chunk: bytes) -> None:
        """Append; raises PayloadTooLarge."""
        self._bytes += len(chunk)
        if self._bytes > self._bytes_max:
            raise PayloadTooLarge("artifact", bytes_max=self._bytes_max)
        self._file.write(chunk)


def digest_of(path: Path) -> str | None:
    """Return the digest of a file's bytes; None without a file."""
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except FileNotFoundError:
        return None
