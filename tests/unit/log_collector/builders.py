"""Streams, lines and container files for the collector's tests."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings

from services.chassis.tenancy import TenantId
from services.log_collector.domain.assembly import Carry
from services.log_collector.domain.checkpoint import Block, Checkpoint, FilePosition
from services.log_collector.domain.log_stream import (
    LogLocation,
    LogStream,
    OwnerKind,
    StreamState,
)
from services.log_collector.domain.records import Batch, Lines, Source

NOW = datetime(2026, 1, 1, 10, tzinfo=UTC)

untimed = settings(deadline=None, suppress_health_check=list(HealthCheck))
"""For properties: the machine has other work, and speed is never asserted."""


def a_stream(
    *,
    attempt_id: str = "att_1",
    owner_id: str = "job_1",
    owner_kind: OwnerKind = OwnerKind.JOB,
    attempt_number: int = 1,
    tenant: str = "acme",
    state: StreamState = StreamState.OPENED,
    path: str | None = None,
) -> LogStream:
    """Return a stream whose container is named for its attempt."""
    return LogStream(
        attempt_id=attempt_id,
        tenant=TenantId(tenant),
        owner_kind=owner_kind,
        owner_id=owner_id,
        attempt_number=attempt_number,
        node_id="node-1",
        state=state,
        expected_at=NOW,
        location=LogLocation("json-file", path or f"{attempt_id}/container.log"),
    )


def some_lines(texts: Sequence[str], *, at: datetime = NOW) -> Lines:
    """Return lines on stdout, a microsecond apart."""
    return Lines(
        [at + timedelta(microseconds=index) for index in range(len(texts))],
        [Source.STDOUT] * len(texts),
        list(texts),
    )


def a_block(first_sequence: int, texts: Sequence[str], *, offset: int = 100) -> Block:
    """Return a block with a checkpoint at this offset."""
    return Block(
        Batch(first_sequence, some_lines(texts)),
        Checkpoint(
            FilePosition(device=1, inode=2, fingerprint=3, offset=offset),
            Carry(),
            first_sequence + len(texts),
        ),
    )


def entry(text: str, *, source: Source = Source.STDOUT, end: str = "\n") -> bytes:
    """Return one line of a json-file."""
    return (
        json.dumps({"log": text + end, "stream": source, "time": "2026-01-01T10:00:00.000000001Z"})
        + "\n"
    ).encode()


class ContainerLog:
    """What a runtime does with a log file: append, and rotate by renaming."""

    def __init__(self, root: Path, container: str, *, files_max: int = 4) -> None:
        self.folder = root / container
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "container.log"
        self._files_max = files_max
        self._file = self.path.open("ab", buffering=0)

    def write(self, *texts: str) -> None:
        """Append lines."""
        self.write_raw(b"".join(map(entry, texts)))

    def write_raw(self, raw: bytes) -> None:
        """Append bytes."""
        self._file.write(raw)

    def rotate(self) -> None:
        """Move every generation on by one; the oldest goes."""
        self._file.close()
        for age in range(self._files_max - 1, 0, -1):
            older = self.folder / f"container.log.{age}"
            newer = self.folder / (f"container.log.{age - 1}" if age > 1 else "container.log")
            if newer.exists():
                os.replace(newer, older)
        self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
