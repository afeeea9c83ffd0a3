"""The output of one attempt, from its announcement until all of it is stored.

Owns: the states of a log stream, the moves between them, and the facts to publish. Events may come
late or twice: each move from a state that has passed it returns the stream unchanged.

Always holds: COMPLETED is final and means that `record_count` records are stored and synced.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Final

from services.chassis.errors import InvalidArgument
from services.chassis.tenancy import TenantId

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_PATH_CHARACTERS_MAX: Final = 1024
_LATE_MAX: Final = timedelta(minutes=10)
"""So long after an attempt's creation an earlier one may still become known; what is missing then
was lost on its way here, and holds up nobody."""


def checked_id(text: str, *, field: str) -> str:
    """Return an id that may name a folder. Raises InvalidArgument naming `field`."""
    if not _ID.fullmatch(text):
        raise InvalidArgument(field, "must be 1 to 100 of letters, digits, '_' and '-'")
    return text


class StreamState(StrEnum):
    """Where a log stream is."""

    EXPECTED = "expected"
    """The attempt exists; it has not run."""
    OPENED = "opened"
    """It runs; its output is being collected."""
    ENDING = "ending"
    """It has ended; what it left is being collected."""
    COMPLETED = "completed"
    """All of its output is stored."""

    @property
    def is_collected(self) -> bool:
        """Tell whether there are files to read."""
        return self in {StreamState.OPENED, StreamState.ENDING}


TRANSITIONS: Final[Mapping[StreamState, frozenset[StreamState]]] = {
    StreamState.EXPECTED: frozenset(
        {StreamState.OPENED, StreamState.ENDING, StreamState.COMPLETED}
    ),
    StreamState.OPENED: frozenset({StreamState.ENDING}),
    StreamState.ENDING: frozenset({StreamState.COMPLETED}),
    StreamState.COMPLETED: frozenset(),
}


PUBLISHED: Final = frozenset({StreamState.OPENED, StreamState.COMPLETED})
"""What others are told; that an attempt has ended they know from its own events."""


class OwnerKind(StrEnum):
    """What an attempt is a try of."""

    JOB = "job"
    REPLICA = "replica"


@dataclass(frozen=True, slots=True)
class LogLocation:
    """Where a runtime writes a container's output, relative to its containers folder.

    Raises InvalidArgument for a format that isn't read here, and for a path that could leave it.
    """

    format: str
    path: str

    def __post_init__(self) -> None:
        if self.format != "json-file":
            raise InvalidArgument("log_location.format", "only json-file can be read")
        path = PurePosixPath(self.path)
        inside = not path.is_absolute() and ".." not in path.parts and "\0" not in self.path
        if not inside or len(path.parts) < 2 or len(self.path) > _PATH_CHARACTERS_MAX:
            raise InvalidArgument("log_location.path", "must be <container name>/<file>")


@dataclass(frozen=True, slots=True)
class StreamTransitioned:
    """A stream has moved to a state that is published."""

    stream: "LogStream"
    at: datetime


@dataclass(frozen=True, slots=True)
class LogStream:
    """The output of one attempt.

    `traceparent` is that of the job or deployment, to whose trace all of this belongs.
    """

    attempt_id: str
    tenant: TenantId
    owner_kind: OwnerKind
    owner_id: str
    attempt_number: int
    node_id: str
    state: StreamState
    expected_at: datetime
    location: LogLocation | None = None
    traceparent: str | None = None
    opened_at: datetime | None = None
    ended_at: datetime | None = None
    is_end_seen: bool = True
    """False: nobody saw the attempt end; the last of its output may be missing."""
    completed_at: datetime | None = None
    record_count: int = 0

    def __post_init__(self) -> None:
        # Both become names of folders or keys.
        checked_id(self.attempt_id, field="attempt_id")
        checked_id(self.owner_id, field="owner_id")

    def opened(
        self, location: LogLocation, *, at: datetime
    ) -> tuple["LogStream", StreamTransitioned | None]:
        """The attempt runs and writes here."""
        if self.state is not StreamState.EXPECTED:
            return self, None
        return self._moved(StreamState.OPENED, at=at, location=location, opened_at=at)

    def ended(
        self, *, at: datetime, location: LogLocation | None, is_end_seen: bool = True
    ) -> tuple["LogStream", StreamTransitioned | None]:
        """The attempt has exited, is lost or never ran; without a location it wrote nothing."""
        if self.state in {StreamState.ENDING, StreamState.COMPLETED}:
            return self, None
        location = self.location or location
        if location is None:
            return self._moved(StreamState.COMPLETED, at=at, ended_at=at, completed_at=at)
        return self._moved(
            StreamState.ENDING, at=at, location=location, ended_at=at, is_end_seen=is_end_seen
        )

    def completed(
        self, *, record_count: int, at: datetime
    ) -> tuple["LogStream", StreamTransitioned | None]:
        """All of its output is stored."""
        if self.state is StreamState.COMPLETED:
            return self, None
        return self._moved(StreamState.COMPLETED, at=at, record_count=record_count, completed_at=at)

    def _moved(
        self, to: StreamState, *, at: datetime, **changes: Any
    ) -> tuple["LogStream", StreamTransitioned | None]:
        assert to in TRANSITIONS[self.state], f"{self.state} never moves to {to}"
        moved = replace(self, state=to, **changes)
        return moved, StreamTransitioned(moved, at) if to in PUBLISHED else None


def up_to_a_gap(
    streams: Sequence[LogStream], *, after_number: int, at: datetime
) -> Sequence[LogStream]:
    """Return an owner's streams, in order, up to one of which an earlier one is not known yet.

    Each event comes by itself, so of a job's attempts, and of their tasks, a later one may become
    known first; whoever reads on behind the missing one would never be told of it. A reader that is
    at `after_number` has passed all before that.
    """
    next_number = max(1, after_number)
    for index, stream in enumerate(streams):
        is_job = stream.owner_kind is OwnerKind.JOB
        if is_job and stream.attempt_number > next_number and at < stream.expected_at + _LATE_MAX:
            return streams[:index]
        next_number = max(next_number, stream.attempt_number + 1)
    return streams
