"""The parts of the shim that need no process."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.adapters.runtime_process.shim import (
    PIECE_BYTES_MAX,
    JsonFileLog,
    Output,
    log_record,
    stamp,
)


def _texts(records: str) -> list[str]:
    return [json.loads(line)["log"] for line in records.split("\n") if line]


def _cut(*chunks: bytes) -> list[str]:
    output = Output("stdout")
    records = "".join(output.feed(chunk, stamp()) for chunk in chunks)
    return _texts(records + output.end(stamp()))


@given(st.binary(max_size=200), st.integers(1, 50))
def test_output_is_the_same_text_however_it_was_written(data: bytes, size: int) -> None:
    chunks = [data[at : at + size] for at in range(0, len(data), size)]

    assert "".join(_cut(*chunks)) == data.decode("utf-8", "replace")


@given(st.integers(PIECE_BYTES_MAX - 4, PIECE_BYTES_MAX + 4), st.sampled_from("xü漢🚀"))
def test_output_never_cuts_a_character(length: int, character: str) -> None:
    text = "y" * length + character * 20_000

    pieces = _cut(text.encode() + b"\n")

    assert "".join(pieces) == text + "\n"
    assert max(len(piece.encode()) for piece in pieces) <= PIECE_BYTES_MAX


def test_output_cuts_what_is_no_text_at_the_bound() -> None:
    pieces = _cut(b"\x80" * (2 * PIECE_BYTES_MAX + 1))

    assert [len(piece) for piece in pieces] == [PIECE_BYTES_MAX, PIECE_BYTES_MAX, 1]


def test_log_is_rotated_and_keeps_the_newest(tmp_path: Path) -> None:
    log = JsonFileLog(str(tmp_path / "log"), file_bytes_max=10, files_max=3)
    for number in range(5):
        log.write(log_record(f"{number}\n", "stdout", stamp()))
    log.close()

    kept = {path.name: _texts(path.read_text()) for path in tmp_path.iterdir()}
    assert kept == {"log": ["4\n"], "log.1": ["3\n"], "log.2": ["2\n"]}


def test_log_says_how_much_is_missing_when_the_disk_was_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = JsonFileLog(str(tmp_path / "log"), file_bytes_max=1000, files_max=2)
    log.write(log_record("before\n", "stdout", stamp()))

    def half(descriptor: int, data: bytes) -> int:
        with open(descriptor, "ab", closefd=False) as file:
            file.write(data[:5])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("os.write", half)
        log.write(log_record("lost\n", "stdout", stamp()))
    log.write(log_record("after\n", "stdout", stamp()))
    log.close()

    before, note, after = _texts((tmp_path / "log").read_text())
    assert (before, after) == ("before\n", "after\n")
    assert "bytes of output are missing here" in note
