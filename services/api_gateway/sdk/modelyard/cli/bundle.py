"""A source folder as one gzipped tar with a stable digest.

The same files give the same bytes: entries are sorted, owners and times are left out.
"""

import gzip
import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from modelyard.cli.session import size

IGNORED: Final = frozenset(
    {".git", ".hg", ".venv", "venv", "__pycache__", ".modelyard", ".mypy_cache", ".ruff_cache"}
    | {".pytest_cache", ".ipynb_checkpoints", "node_modules"}
)
BUNDLE_BYTES_MAX: Final = 64 * 1024 * 1024


class BundleTooLarge(Exception):
    """The folder does not fit a bundle."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A packed folder."""

    path: Path
    digest: str
    size_bytes: int
    file_count: int


def pack(folder: Path, into: Path) -> Bundle:
    """Pack `folder` into the file `into`; raises BundleTooLarge or OSError."""
    files = list(_files(folder))
    with (
        into.open("wb") as raw,
        gzip.GzipFile(fileobj=_Bounded(raw, folder), mode="wb", mtime=0, filename="") as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for file in files:
            entry = tar.gettarinfo(str(file), arcname=file.relative_to(folder).as_posix())
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            with file.open("rb") as content:
                tar.addfile(entry, content)
    size_bytes = into.stat().st_size
    with into.open("rb") as packed:
        digest = hashlib.file_digest(packed, "sha256").hexdigest()
    return Bundle(
        path=into, digest=f"sha256:{digest}", size_bytes=size_bytes, file_count=len(files)
    )


@dataclass(slots=True)
class _Bounded:
    """A file that takes as much as a bundle may have."""

    file: BinaryIO
    folder: Path
    size_bytes: int = 0

    def write(self, packed: bytes) -> int:
        self.size_bytes += len(packed)
        if self.size_bytes > BUNDLE_BYTES_MAX:
            raise BundleTooLarge(f"{self.folder}: more than {size(BUNDLE_BYTES_MAX)} packed")
        return self.file.write(packed)

    def flush(self) -> None:
        self.file.flush()


def _files(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name in IGNORED or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from _files(entry)
        elif entry.is_file():
            yield entry
