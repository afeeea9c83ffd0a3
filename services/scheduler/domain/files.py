"""Files by content: what a job leaves and what a replica serves.

Owns: the shape of digests. The bytes are the registry's.
"""

import re
from dataclasses import dataclass
from typing import Final

from services.chassis.errors import InvalidArgument

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_PATH_BYTES_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an artifact: a relative path with forward slashes, and its content."""

    path: str
    size_bytes: int
    digest: str


def check_digest(digest: str, *, field: str) -> None:
    """Raise InvalidArgument unless this is `sha256:` and 64 lower-case hexadecimal digits."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidArgument(field, "must be sha256: and 64 lower-case hexadecimal digits")


def check_relative_path(path: str, *, field: str) -> None:
    """Raise InvalidArgument unless the path stays inside the folder that it is relative to."""
    if "\\" in path or not path.isprintable():  # first: what is no text has no bytes to count
        raise InvalidArgument(field, "must be printable and use forward slashes")
    if not 0 < len(path.encode()) <= _PATH_BYTES_MAX:
        raise InvalidArgument(field, f"must have 1 to {_PATH_BYTES_MAX} bytes")
    if any(part in {"", ".", ".."} for part in path.split("/")):
        raise InvalidArgument(field, "must be relative, without empty, '.' or '..' parts")
