"""Parts become lines in the same way, wherever the input is cut."""

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.log_collector.adapters.container_files.json_file import decode
from services.log_collector.domain.assembly import (
    LINE_BYTES_MAX,
    Carry,
    Corrupt,
    Gap,
    assemble,
    finished,
)
from services.log_collector.domain.records import Lines, Mark, Source, joined
from tests.unit.log_collector.builders import untimed

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def entry(log: str, stream: str = "stdout", nanosecond: int = 0) -> bytes:
    time = f"2026-01-01T10:00:00.{nanosecond:09d}Z"
    return json.dumps({"log": log, "stream": stream, "time": time}).encode() + b"\n"


def lines_of(pieces: Sequence[bytes]) -> Lines:
    """Decode and assemble each piece in turn, then end the output."""
    carry = Carry()
    parts = []
    for piece in pieces:
        for item in decode(piece):
            lines, carry = assemble(item, carry, now=NOW)
            parts.append(lines)
    return joined([*parts, finished(carry)])


def split_lines(raw: bytes) -> list[bytes]:
    return [line + b"\n" for line in raw.split(b"\n")[:-1]]


logs = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)
good = st.builds(
    entry,
    logs.flatmap(lambda log: st.sampled_from([log, log + "\n"])),
    st.sampled_from(["stdout", "stderr"]),
)
garbage = st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"") + b"\n")
nul_run = st.integers(1, 9).map(lambda count: b"\0" * count)
file_lines = st.lists(
    st.one_of(good, good, good, garbage, st.builds(lambda a, b: a + b, nul_run, good)), max_size=20
)


@untimed
@given(file_lines, st.lists(st.integers(0, 30), max_size=5))
def test_lines_are_the_same_wherever_the_file_is_cut(
    written: list[bytes], places: list[int]
) -> None:
    bounds = [0, *sorted(place % (len(written) + 1) for place in places), len(written)]
    pieces = [b"".join(written[a:b]) for a, b in pairwise(bounds)]

    assert lines_of(pieces) == lines_of([b"".join(written)]) == lines_of(written)


@untimed
@given(st.lists(st.tuples(logs, st.sampled_from(list(Source))), max_size=20))
def test_each_written_line_comes_out_once_and_in_order(written: list[tuple[str, Source]]) -> None:
    written = [(text.replace("\n", ""), source) for text, source in written]
    raw = b"".join(entry(text + "\n", source) for text, source in written)

    lines = lines_of([raw])

    assert list(zip(lines.texts, lines.sources, strict=True)) == written
    assert not lines.marks


@untimed
@given(st.binary(max_size=200).filter(lambda raw: raw.strip(b"\0 \t\r\n")))
def test_bytes_that_are_no_record_are_kept_as_they_are(raw: bytes) -> None:
    pieces = [
        piece for line in raw.split(b"\n") for piece in line.split(b"\0") if piece.strip(b" \t\r")
    ]
    lines = lines_of([raw])

    assert [base64.b64decode(text) for text in lines.texts] == pieces
    assert set(lines.marks.values()) == {Mark.CORRUPT}


def test_parts_are_joined_per_source_when_they_are_interleaved() -> None:
    raw = b"".join(
        [
            entry("a" * 16384, "stdout", 1),
            entry("x" * 16384, "stderr", 2),
            entry("b\n", "stdout", 1),
            entry("short\n", "stdout", 3),
            entry("y\n", "stderr", 2),
        ]
    )
    lines = lines_of(split_lines(raw))

    assert lines.texts == ["a" * 16384 + "b", "short", "x" * 16384 + "y"]
    assert lines.sources == [Source.STDOUT, Source.STDOUT, Source.STDERR]


def test_a_last_line_without_newline_is_a_line_when_the_output_ends() -> None:
    lines = lines_of([entry("first\n") + entry("no newline")])

    assert lines.texts == ["first", "no newline"]


def test_a_line_over_the_bound_is_cut_and_goes_on_as_the_next_record() -> None:
    text = "ä" * LINE_BYTES_MAX  # twice the bound in bytes
    parts = [text[start : start + 16384] for start in range(0, len(text), 16384)]
    raw = b"".join(entry(part) for part in parts) + entry("end\n")

    lines = lines_of(split_lines(raw))

    assert "".join(lines.texts) == text + "end"
    assert all(len(piece.encode()) <= LINE_BYTES_MAX for piece in lines.texts)
    assert lines.marks == {0: Mark.CUT, 1: Mark.CUT}


def test_a_gap_ends_what_was_unfinished_before_it() -> None:
    (parts,) = decode(entry("begun"))
    _, carry = assemble(parts, Carry(), now=NOW)

    lines, carry = assemble(Gap("lost"), carry, now=NOW)

    assert lines.texts == ["begun", "lost"]
    assert lines.marks == {1: Mark.GAP}
    assert not carry.unfinished


def test_corrupt_bytes_are_stamped_with_now_when_nothing_came_before() -> None:
    lines, _ = assemble(Corrupt(b"\xff"), Carry(), now=NOW)

    assert lines.times == [NOW]
    assert lines.sources == [Source.STDERR]
