"""Turns what a runtime wrote into lines.

A runtime splits a long line into parts of 16 KiB, which may be interleaved with those of the other
source; only the last part ends in a newline. Parts are joined per source; what is unfinished is
carried from call to call, so that the outcome doesn't depend on where the calls cut.

Always holds: no text is longer than `LINE_BYTES_MAX` bytes or holds a newline.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import repeat
from typing import Final, Protocol

from services.log_collector.domain.records import Lines, Mark, Source

LINE_BYTES_MAX: Final = 1024 * 1024


class Part(Protocol):
    """One entry of a runtime's log file."""

    @property
    def log(self) -> str:
        """A whole line with its newline, or a part of one without."""
        ...

    @property
    def stream(self) -> Source:
        """Where it was written to."""
        ...

    @property
    def time(self) -> datetime:
        """When the runtime read it."""
        ...


@dataclass(frozen=True, slots=True)
class Corrupt:
    """Bytes where a record should have been."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Output is, or may be, missing here."""

    reason: str


Item = Sequence[Part] | Corrupt | Gap
"""What a log file yields: mostly runs of parts."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The parts so far of a line whose newline hasn't been seen; `time` is the first part's."""

    time: datetime
    text: str


@dataclass(frozen=True, slots=True)
class Carry:
    """What a cut between two calls leaves: unfinished lines and the last time stamp seen."""

    unfinished: Mapping[Source, Unfinished] = field(default_factory=dict)
    last_time: datetime | None = None


def assemble(item: Item, carry: Carry, *, now: datetime) -> tuple[Lines, Carry]:
    """Return the lines that `item` completes, and what is carried to the next call.

    `now` stamps marks that stand before the first time stamp of a stream.
    """
    match item:
        case Corrupt(raw):
            text = base64.b64encode(raw).decode("ascii")
            return _marked(text, Mark.CORRUPT, carry.last_time or now), carry
        case Gap(reason):
            # The rest of a line that was cut by the gap would be glued to another line's end.
            before = finished(carry)
            lines = _Columns(before)
            lines.add(carry.last_time or now, Source.STDERR, reason, Mark.GAP)
            return lines.lines(), Carry(last_time=carry.last_time)
        case _:
            return _assemble_parts(item, carry)


def finished(carry: Carry) -> Lines:
    """Return the lines that the end of the output completes: those without a newline."""
    columns = _Columns()
    for source, unfinished in sorted(carry.unfinished.items(), key=lambda entry: entry[1].time):
        columns.add(unfinished.time, source, unfinished.text)
    return columns.lines()


def _assemble_parts(parts: Sequence[Part], carry: Carry) -> tuple[Lines, Carry]:
    if not parts:
        return Lines(), carry
    last_time = parts[-1].time
    if not carry.unfinished:
        logs = [part.log for part in parts]
        texts = "".join(logs).split("\n")
        # Nearly always each part is one whole line, and the columns can be taken as they are. A
        # part is at most 16 KiB, unless the file was not written by a runtime.
        if (
            len(texts) == len(logs) + 1
            and all(map(str.endswith, logs, repeat("\n")))
            and max(map(len, logs)) <= LINE_BYTES_MAX // 4
        ):
            texts.pop()
            lines = Lines([part.time for part in parts], [part.stream for part in parts], texts)
            return lines, Carry(last_time=last_time)
    columns = _Columns()
    unfinished = dict(carry.unfinished)
    for part in parts:
        *whole, rest = part.log.split("\n")
        for text in whole:
            begun = unfinished.pop(part.stream, None) or Unfinished(part.time, "")
            *cut, last = _cut(begun.text + text)
            for piece in cut:
                columns.add(begun.time, part.stream, piece, Mark.CUT)
            columns.add(begun.time, part.stream, last)
        if rest:
            begun = unfinished.get(part.stream) or Unfinished(part.time, "")
            *cut, last = _cut(begun.text + rest)
            for piece in cut:
                columns.add(begun.time, part.stream, piece, Mark.CUT)
            unfinished[part.stream] = Unfinished(begun.time, last)
    return columns.lines(), Carry(unfinished, last_time)


def _cut(text: str) -> Iterator[str]:
    """Yield `text` in pieces of at most LINE_BYTES_MAX bytes of UTF-8; the last may be empty."""
    if len(text) <= LINE_BYTES_MAX // 4:
        yield text
        return
    raw = text.encode("utf-8", "surrogatepass")
    while len(raw) > LINE_BYTES_MAX:
        end = LINE_BYTES_MAX
        while raw[end] & 0xC0 == 0x80:  # never inside of a character
            end -= 1
        yield raw[:end].decode("utf-8", "surrogatepass")
        raw = raw[end:]
    yield raw.decode("utf-8", "surrogatepass")


class _Columns:
    """Collects lines one by one."""

    def __init__(self, start: Lines | None = None) -> None:
        start = start or Lines()
        self._times = list(start.times)
        self._sources = list(start.sources)
        self._texts = list(start.texts)
        self._marks = dict(start.marks)

    def add(self, time: datetime, source: Source, text: str, mark: Mark | None = None) -> None:
        if mark is not None:
            self._marks[len(self._texts)] = mark
        self._times.append(time)
        self._sources.append(source)
        self._texts.append(text)

    def lines(self) -> Lines:
        return Lines(self._times, self._sources, self._texts, self._marks)


def _marked(text: str, mark: Mark, time: datetime) -> Lines:
    return Lines([time], [Source.STDERR], [text], {0: mark})
