"""What a container has printed, line by line.

Owns: a line's parts, its marks, positions in an owner's output, and the filter of a search. Lines
are held by column, since a flood of them is moved far more often than it is looked at; a
`LogRecord` is made only for a reader.

Always holds: the columns of `Lines` are equally long; the record at index i of a `Batch` has
sequence `first_sequence + i`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Source(StrEnum):
    """The stream of a container that a line was written to."""

    STDOUT = "stdout"
    STDERR = "stderr"


class Mark(StrEnum):
    """Why a record is not simply a line."""

    CUT = "cut"
    """The line was longer than the bound; the rest follows as the next record."""
    CORRUPT = "corrupt"
    """Bytes of the runtime's file that are no record; the text is their base64."""
    GAP = "gap"
    """Output before this record was lost; the text says why."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines by column; `marks` names the few that are marked, by index."""

    times: Sequence[datetime] = ()
    sources: Sequence[Source] = ()
    texts: Sequence[str] = ()
    marks: Mapping[int, Mark] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.times) == len(self.sources) == len(self.texts), "columns differ in length"

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def character_count(self) -> int:
        """Characters of all texts together, a cheap stand-in for their bytes."""
        return sum(map(len, self.texts))

    def between(self, start: int, end: int) -> "Lines":
        """Return the lines from index `start` to before `end`."""
        marks = {index - start: mark for index, mark in self.marks.items() if start <= index < end}
        return Lines(self.times[start:end], self.sources[start:end], self.texts[start:end], marks)


def joined(parts: Sequence[Lines]) -> Lines:
    """Return the lines of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    times: list[datetime] = []
    sources: list[Source] = []
    texts: list[str] = []
    marks: dict[int, Mark] = {}
    for part in parts:
        marks.update((index + len(texts), mark) for index, mark in part.marks.items())
        times += part.times
        sources += part.sources
        texts += part.texts
    return Lines(times, sources, texts, marks)


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line as a reader gets it; `sequence` is 1..n within its attempt without a gap."""

    sequence: int
    source: Source
    time: datetime
    text: str
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines that follow each other, with their place in the attempt's output."""

    first_sequence: int
    lines: Lines

    @property
    def last_sequence(self) -> int:
        """Sequence of the last record; one less than the first when there is none."""
        return self.first_sequence + len(self.lines) - 1

    def after(self, sequence: int) -> "Batch":
        """Return the batch without the records up to `sequence`."""
        skipped = max(0, sequence + 1 - self.first_sequence)
        if not skipped:
            return self
        return Batch(self.first_sequence + skipped, self.lines.between(skipped, len(self.lines)))

    def halves(self) -> tuple["Batch", "Batch"]:
        """Return the batch in two parts."""
        middle = len(self.lines) // 2
        return (
            Batch(self.first_sequence, self.lines.between(0, middle)),
            Batch(self.first_sequence + middle, self.lines.between(middle, len(self.lines))),
        )


@dataclass(frozen=True, slots=True, order=True)
class LogPosition:
    """A point in an owner's output: after this sequence of this attempt."""

    attempt_number: int
    sequence: int

    def sequence_in(self, attempt_number: int) -> int | None:
        """Return after which sequence of an attempt to go on; None when it lies behind."""
        if attempt_number < self.attempt_number:
            return None
        return self.sequence if attempt_number == self.attempt_number else 0


@dataclass(frozen=True, slots=True)
class LogFilter:
    """What a reader wants to see; None matches all."""

    contains: str | None = None
    source: Source | None = None
    attempt_number: int | None = None
    since: datetime | None = None
    until: datetime | None = None

    def matches_attempt(self, attempt_number: int) -> bool:
        """Tell whether any record of this attempt can match."""
        return self.attempt_number is None or self.attempt_number == attempt_number

    def may_match(self, *, first_time: datetime, last_time: datetime) -> bool:
        """Tell whether a record between these times can match; whole blocks are skipped by it."""
        return (self.since is None or last_time >= self.since) and (
            self.until is None or first_time < self.until
        )

    def records_of(self, batches: Sequence[Batch]) -> Iterator[LogRecord]:
        """Yield the matching records, in order."""
        for batch in batches:
            yield from self._records_of(batch)

    def _records_of(self, batch: Batch) -> Iterator[LogRecord]:
        lines = batch.lines
        for index, text in enumerate(lines.texts):
            if self.contains is not None and self.contains not in text:
                continue
            if self.source is not None and lines.sources[index] is not self.source:
                continue
            time = lines.times[index]
            if self.may_match(first_time=time, last_time=time):
                yield LogRecord(
                    sequence=batch.first_sequence + index,
                    source=lines.sources[index],
                    time=time,
                    text=text,
                    mark=lines.marks.get(index),
                )
