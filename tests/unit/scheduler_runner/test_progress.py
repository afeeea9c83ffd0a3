"""Progress lines, however they arrive."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.domain.attempts.progress import LINE_BYTES_MAX, ProgressTail, Said


def _fed(*chunks: bytes) -> ProgressTail:
    tail = ProgressTail()
    for chunk in chunks:
        tail = tail.fed(chunk, next_offset=tail.offset + len(chunk))
    return tail


def test_tail_keeps_the_newest_word_on_each_part() -> None:
    tail = _fed(
        b'{"fraction": 0.5, "message": "epoch 1", "metrics": {"loss": 2}}\n',
        b'{"fraction": 0.75}\n{"metrics": {"loss": 1.5}, "new_part": []}\n',
    )

    assert tail.said == Said(0.75, "epoch 1", {"loss": 1.5})
    assert tail.malformed_count == 0


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no json",
        b"[]",
        b"\xff",
        b'{"fraction": 1.1}',
        b'{"fraction": -0.1}',
        b'{"fraction": NaN}',
        b'{"fraction": true}',
        b'{"fraction": "0.5"}',
        b'{"message": 1}',
        b'{"metrics": []}',
        b'{"metrics": {"loss": "low"}}',
        b'{"metrics": {"loss": Infinity}}',
        b'{"metrics": {"loss": 1' + b"0" * 400 + b"}}",
        b"[" * 5000,
        json.dumps({"message": "x" * LINE_BYTES_MAX}).encode(),
    ],
)
def test_tail_counts_and_ignores_what_is_malformed(line: bytes) -> None:
    tail = _fed(b'{"fraction": 0.5}\n', line + b"\n")

    assert tail.said == Said(0.5)
    assert tail.malformed_count == 1


def test_tail_waits_for_the_end_of_a_line_but_not_for_ever() -> None:
    tail = _fed(b'{"fraction": 0.5}')
    assert tail.said is None

    tail = _fed(b"x" * (LINE_BYTES_MAX + 1))
    assert tail.rest == b""


def test_tail_drops_the_begun_line_when_the_reader_skipped() -> None:
    tail = _fed(b'{"fraction": 0.5}\n{"fraction"')

    tail = tail.fed(b'ction": 0.6}\n{"fraction": 0.75}\n', next_offset=1000)

    assert tail.said == Said(0.75)
    assert tail.malformed_count == 1


@given(st.data())
def test_tail_is_the_same_however_the_file_was_cut(data: st.DataObject) -> None:
    lines = b'{"fraction": 0.25}\nmalformed\n{"message": "\xc3\xbc"}\n{"metrics": {"a": 1}}\n'
    cuts = sorted(data.draw(st.sets(st.integers(0, len(lines)), max_size=5)))
    chunks = [lines[a:b] for a, b in zip([0, *cuts], [*cuts, len(lines)], strict=True)]

    assert _fed(*chunks) == _fed(lines)
