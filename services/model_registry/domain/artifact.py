"""Artifacts: bytes named by their digest, and the manifests that list them as files.

Owns: the form of a digest, and what makes a list of files a manifest. Where the bytes lie is
`adapters.blob_store`'s business.
Always holds: a manifest's files can be laid out below any folder without leaving it or colliding.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, NewType

from services.chassis.amounts import size_in_words
from services.chassis.errors import InvalidArgument

Digest = NewType("Digest", str)

DIGEST_PREFIX: Final = "sha256:"
PATH_BYTES_MAX: Final = 512
FILES_MAX: Final = 1_000
"""With PATH_BYTES_MAX and the bounds of tags and metrics a version fits into a record of 1 MiB."""

_DIGEST: Final = re.compile(rf"{DIGEST_PREFIX}[0-9a-f]{{64}}")


def checked_digest(text: str, *, field: str = "digest") -> Digest:
    """Return a digest, `sha256:` and 64 lower-case hexadecimal digits.

    Raises InvalidArgument naming `field`.
    """
    if not _DIGEST.fullmatch(text):
        raise InvalidArgument(field, "must be 'sha256:' and 64 lower-case hexadecimal digits")
    return Digest(text)


@dataclass(frozen=True, slots=True)
class Artifact:
    """Stored bytes of one tenant."""

    digest: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a manifest: a relative path and what lies there."""

    path: str
    artifact: Artifact


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a version."""

    files: tuple[FileEntry, ...]

    @classmethod
    def checked(cls, files: Iterable[FileEntry]) -> "Manifest":
        """Return it from what a caller sent. Raises InvalidArgument."""
        manifest = cls(tuple(files))
        if not 1 <= len(manifest.files) <= FILES_MAX:
            raise InvalidArgument("files", f"must be 1 to {FILES_MAX}")
        for place, file in enumerate(manifest.files):
            _check_path(file.path, field=f"files[{place}].path")
            if file.artifact.size_bytes < 0:
                raise InvalidArgument(f"files[{place}].size_bytes", "must not be negative")
        _check_layout(file.path for file in manifest.files)
        return manifest

    @property
    def digests(self) -> frozenset[Digest]:
        """The digests of its files, each once."""
        return frozenset(file.artifact.digest for file in self.files)

    def problem(self, stored: Mapping[Digest, Artifact]) -> str | None:
        """Say why it can't be served from what its tenant has stored; None when it can."""
        for file in self.files:
            found = stored.get(file.artifact.digest)
            if found is None:
                return f"{file.path}: {file.artifact.digest} is not stored"
            if found.size_bytes != file.artifact.size_bytes:
                return (
                    f"{file.path}: its artifact has {size_in_words(found.size_bytes)}, "
                    f"not {size_in_words(file.artifact.size_bytes)}"
                )
        return None


def _check_path(path: str, *, field: str) -> None:
    if not 1 <= len(path.encode()) <= PATH_BYTES_MAX:
        raise InvalidArgument(field, f"must have 1 to {PATH_BYTES_MAX} bytes")
    if "\0" in path or "\\" in path:
        raise InvalidArgument(field, "must not have NUL characters or backslashes")
    if any(part in {"", ".", ".."} for part in path.split("/")):
        raise InvalidArgument(field, "must be relative, without empty, '.' or '..' parts")


def _check_layout(paths: Iterable[str]) -> None:
    """Refuse a path that is given twice, or that is a file and a folder at once."""
    files: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        if path in files:
            raise InvalidArgument("files", f"{path} is given twice")
        files.add(path)
        folders.update(str(parent) for parent in PurePosixPath(path).parents)
    for path in files & folders:
        raise InvalidArgument("files", f"{path} is a file and a folder")
