"""A source folder as one gzipped tar with a stable digest.

The same files give the same bytes: entries are sorted, owners and times are left out. Left out is
what `.modelyardignore` names, which is read as a `.gitignore` is; and links, caches, environments.
"""

import gzip
import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from modelyard.cli.session import size
from pathspec import GitIgnoreSpec

IGNORED: Final = frozenset(
    {".git", ".hg", ".venv", "venv", "__pycache__", ".modelyard", ".mypy_cache", ".ruff_cache"}
    | {".pytest_cache", ".ipynb_checkpoints", "node_modules"}
)
BUNDLE_BYTES_MAX: Final = 64 * 1024 * 1024
IGNORE_FILE: Final = ".modelyardignore"
"""Of the folder itself; those of folders in it are files like others."""


class BundleTooLarge(Exception):
    """The folder does not fit a bundle."""


class WrongIgnoreFile(Exception):
    """What the folder's ignore file says can't be read."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A packed folder."""

    path: Path
    digest: str
    size_bytes: int
    file_count: int
    left_out: tuple[str, ...] = ()
    """Files and folders, by their paths."""


def pack(folder: Path, into: Path) -> Bundle:
    """Pack `folder` into the file `into`; raises BundleTooLarge, WrongIgnoreFile or OSError."""
    found = _Found(folder, _rules(folder / IGNORE_FILE))
    files = list(found.files(folder))
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
        path=into,
        digest=f"sha256:{digest}",
        size_bytes=size_bytes,
        file_count=len(files),
        left_out=tuple(found.left_out),
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


def _rules(file: Path) -> GitIgnoreSpec:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    except UnicodeDecodeError as error:
        raise WrongIgnoreFile(f"{file}: is no text in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError as error:
            raise WrongIgnoreFile(f"{file}, line {number}: {line!r} is no pattern") from error
    return GitIgnoreSpec.from_lines(lines)


@dataclass(slots=True)
class _Found:
    """What there is in a folder, and what of it is left out."""

    root: Path
    rules: GitIgnoreSpec
    left_out: list[str] = field(default_factory=list)

    def files(self, folder: Path) -> Iterator[Path]:
        for entry in sorted(folder.iterdir()):
            is_folder = entry.is_dir()
            name = entry.relative_to(self.root).as_posix() + ("/" if is_folder else "")
            is_kept = entry.name not in IGNORED and not entry.is_symlink()
            if not is_kept or self.rules.match_file(name):
                self.left_out.append(name)
            elif is_folder:
                yield from self.files(entry)
            elif entry.is_file():
                yield entry
