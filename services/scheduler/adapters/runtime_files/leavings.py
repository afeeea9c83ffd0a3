"""What a container has left on this machine: progress, outputs, and its last words.

Owns: reading them, bounded, and never through a link. Leaves to the callers what they mean.
"""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from services.chassis.errors import InvalidArgument, NotFound, PayloadTooLarge
from services.scheduler.adapters.runtime_files.files import CHECKPOINT
from services.scheduler.domain.attempts.runtime import LeftFile, ProgressData, is_inner_path

PROGRESS_BYTES_MAX: Final = 256 * 1024
DEPTH_MAX: Final = 64
"""Folders in folders of one output."""
ENTRIES_MAX: Final = 20_000
"""Files and folders of one output that are looked at; empty folders are none of its files."""
_OF_THE_PROGRAM: Final = frozenset({errno.ENAMETOOLONG, errno.EACCES, errno.EPERM})
"""What a program can bring about: a path too long, a folder that may not be entered."""
_LOG_TAIL_BYTES_MAX: Final = 256 * 1024


def read_progress(path: Path, *, offset: int) -> ProgressData:
    """Return what was appended since `offset`, at most the last 256 KiB: only the end counts."""
    with _opened(path) as file:
        if file is None:
            return ProgressData(b"", next_offset=offset)
        size = file.seek(0, os.SEEK_END)
        begin = offset if offset <= size else 0  # it was truncated
        begin = max(begin, size - PROGRESS_BYTES_MAX)
        file.seek(begin)
        data = file.read(size - begin)
    return ProgressData(data, next_offset=begin + len(data))


def list_output(folder: Path, path: str, *, files_max: int, bytes_max: int) -> Sequence[LeftFile]:
    """Return the files of one output: a file by its own name, a folder's by their paths in it.

    Raises NotFound if there is neither, InvalidArgument for links and whatever else is no file,
    PayloadTooLarge beyond the bounds, OSError where this machine can't read them.
    """
    if not is_inner_path(path):
        raise InvalidArgument("outputs", f"{path!r} leads out of the output folder")
    found: list[LeftFile] = []
    total = 0
    for file, relative in _walk(folder, path):
        total += file.lstat().st_size
        if len(found) >= files_max:
            raise InvalidArgument("outputs", f"{path!r} holds more than {files_max} files")
        if total > bytes_max:
            raise PayloadTooLarge(f"output {path!r}", bytes_max=bytes_max)
        found.append(LeftFile(path=relative, file=file))
    return sorted(found, key=lambda left: left.path)


def list_checkpoint(folder: Path, *, files_max: int, bytes_max: int) -> Sequence[LeftFile]:
    """Return the files in the checkpoint folder below a container's, none if it is empty or gone.

    Raises as `list_output` does.
    """
    try:
        return list_output(folder, CHECKPOINT, files_max=files_max, bytes_max=bytes_max)
    except NotFound:
        return []


def last_lines(log: Path, *, bytes_max: int) -> str:
    """Return the end of its standard error, else of its output, from a line's beginning."""
    with _opened(log) as file:
        if file is None:
            return ""
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOG_TAIL_BYTES_MAX))
        lines = file.read(_LOG_TAIL_BYTES_MAX).splitlines()
    errors, output = (
        "".join(_logged(line, stream) for line in lines) for stream in ("stderr", "stdout")
    )
    return end_of(errors or output, bytes_max=bytes_max)


def end_of(text: str, *, bytes_max: int) -> str:
    """Return the last bytes of a text, from the beginning of a line if that is in them."""
    end = text.encode()[-bytes_max:].decode(errors="ignore")
    return end if len(end) == len(text) else end.partition("\n")[2] or end


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | None]:
    """Give a file to read, None without one.

    The program may have put anything there: no link is followed, no pipe waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield None
        return
    with open(descriptor, "rb") as file:
        yield file if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _logged(line: bytes, stream: str) -> str:
    """Return what a json-file's line says of a stream; nothing if it is cut or is none."""
    try:
        record = json.loads(line)
        return str(record["log"]) if record["stream"] == stream else ""
    except (ValueError, TypeError, LookupError, RecursionError):
        return ""


def _walk(folder: Path, path: str) -> Iterator[tuple[Path, str]]:
    target = folder
    _require_no_link(target, path)
    for part in path.split("/"):
        target /= part
        _require_no_link(target, path)
    if target.is_file():
        yield target, target.name
        return

    left = [(target, 1)]
    entry_count = 0
    while left:  # not os.walk: it recurses, and a program may have made a thousand levels
        folder, depth = left.pop()
        if depth > DEPTH_MAX:
            raise InvalidArgument("outputs", f"{path!r} is deeper than {DEPTH_MAX} folders")
        for entry in _entries(folder, path):
            entry_count += 1
            if entry_count > ENTRIES_MAX:
                raise InvalidArgument("outputs", f"{path!r} holds more than {ENTRIES_MAX} entries")
            inner = folder / entry
            _require_no_link(inner, path)
            if inner.is_dir():
                left.append((inner, depth + 1))
            else:
                yield inner, inner.relative_to(target).as_posix()


def _entries(folder: Path, path: str) -> Sequence[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        _refuse_the_programs_doing(path, error)
        raise


def _require_no_link(file: Path, path: str) -> None:
    try:
        mode = file.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound("output", path) from error
    except OSError as error:
        _refuse_the_programs_doing(path, error)
        raise
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        which = repr(path) if file.name == path else f"{file.name!r} of {path!r}"
        raise InvalidArgument("outputs", f"{which} is a link or a pipe, not a file or folder")


def _refuse_the_programs_doing(path: str, error: OSError) -> None:
    """Raise InvalidArgument if the program brought this error about; the node's may pass."""
    if error.errno in _OF_THE_PROGRAM:
        raise InvalidArgument("outputs", f"{path!r} can't be read: {error.strerror}") from error
