"""Unpacking a source bundle, which a stranger packed.

Owns: what a bundle may hold and how much. Always holds: nothing is written outside the target
folder, and nothing in it points outside.
"""

import errno
import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from typing_extensions import override

from services.chassis.errors import InvalidArgument, PayloadTooLarge
from services.scheduler.domain.attempts.runtime import is_inner_path

BUNDLE_FILES_MAX: Final = 20_000
BUNDLE_BYTES_MAX: Final = 1024**3
"""Unpacked; a small archive can hold a lot of zeros."""
PATH_BYTES_MAX: Final = 1024
_READ_BYTES_MAX: Final = 1024**2
"""At once: what is longer, such as a name, would have to be in memory."""

_NOT_A_BUNDLE: Final = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,  # numbers in headers that are none, which tarfile passes on
    RecursionError,  # headers of headers
    FileExistsError,  # the same name twice, as a file and as a folder
    IsADirectoryError,
    NotADirectoryError,
)


def unpack_bundle(
    bundle: Path,
    target: Path,
    *,
    files_max: int = BUNDLE_FILES_MAX,
    bytes_max: int = BUNDLE_BYTES_MAX,
) -> None:
    """Unpack a gzipped tar into an existing folder.

    Raises InvalidArgument for what is no bundle or holds what it must not, PayloadTooLarge beyond
    the bounds. What was written until then stays: the caller discards the folder.
    """
    try:
        with (
            _Unzipped(bundle) as content,
            tarfile.open(fileobj=content, mode="r:") as archive,
        ):
            _unpack(archive, target, files_max=files_max, bytes_max=bytes_max)
    except _NOT_A_BUNDLE as error:
        raise InvalidArgument("source_digest", f"can't be unpacked: {error}") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise  # the node's own failure
        raise InvalidArgument("source_digest", "holds a name that is too long") from error


class _Unzipped(gzip.GzipFile):
    """A gzipped file that gives little at once, however much a header says that follows."""

    @override
    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _READ_BYTES_MAX:
            raise tarfile.ReadError("a header is too large")
        return super().read(size)


def _unpack(archive: tarfile.TarFile, target: Path, *, files_max: int, bytes_max: int) -> None:
    links: list[tuple[Path, str]] = []
    total = 0
    for count, member in enumerate(archive, start=1):
        total += max(0, member.size)
        if count > files_max:
            raise InvalidArgument("source_digest", f"holds more than {files_max} files")
        if total > bytes_max:
            raise PayloadTooLarge("source_digest", bytes_max=bytes_max)
        path = _inner(target, member.name)
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
        elif member.isfile():
            _write(archive, member, path)
        elif member.issym():
            links.append((path, member.linkname))
        else:
            raise InvalidArgument("source_digest", f"{member.name!r} is no file, folder or link")
    _link(links, target)


def _inner(target: Path, name: str) -> Path:
    name = name.removeprefix("./").rstrip("/")
    if name in {"", "."}:
        return target
    if len(name.encode(errors="surrogateescape")) > PATH_BYTES_MAX:
        raise InvalidArgument("source_digest", f"holds a path of more than {PATH_BYTES_MAX} bytes")
    if not is_inner_path(name):
        raise InvalidArgument("source_digest", f"{name!r} leads out of the bundle")
    return target / name


def _link(links: Sequence[tuple[Path, str]], target: Path) -> None:
    """Make the links last, so that no file is written through one.

    They are judged twice: the folder of each before it is made, and all of them once they are
    there, since one can change where another leads.
    """
    for path, destination in links:
        _require_inside(path.parent, target)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(destination)
    for path, _ in links:
        _require_inside(path, target)


def _require_inside(path: Path, folder: Path) -> None:
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise InvalidArgument("source_digest", f"{path.name!r} leads out of the bundle")


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = archive.extractfile(member)
    assert content is not None, "a regular file has content"
    path.parent.mkdir(parents=True, exist_ok=True)
    with content, path.open("wb") as file:
        shutil.copyfileobj(content, file)
    path.chmod(0o755 if member.mode & 0o100 else 0o644)
