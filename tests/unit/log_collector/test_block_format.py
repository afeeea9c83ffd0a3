"""A block comes back as it was written, or not at all."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.log_collector.adapters.segments.block_format import (
    HEADER_BYTES,
    BlockHeader,
    NotABlock,
    StreamIdentity,
    decompress,
    encode,
    split,
)
from services.log_collector.domain.assembly import Carry, Unfinished
from services.log_collector.domain.checkpoint import Block, Checkpoint, FilePosition
from services.log_collector.domain.records import Batch, Lines, Mark, Source
from tests.unit.log_collector.builders import NOW, a_block, untimed

IDENTITY = StreamIdentity(attempt_id="att_1", tenant="acme", owner_id="job_1", attempt_number=1)

times = st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001  hypothesis adds the zone
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
rows = st.lists(
    st.tuples(times, st.sampled_from(Source), st.text(), st.sampled_from([None, *Mark])),
    max_size=20,
)


@untimed
@given(rows, st.integers(1, 2**40), st.text(max_size=10))
def test_a_block_comes_back_as_it_was(
    rows: list[tuple[datetime, Source, str, Mark | None]], first_sequence: int, rest: str
) -> None:
    lines = Lines(
        [row[0] for row in rows],
        [row[1] for row in rows],
        [row[2] for row in rows],
        {index: row[3] for index, row in enumerate(rows) if row[3] is not None},
    )
    checkpoint = Checkpoint(
        FilePosition(device=2**40, inode=2**50, fingerprint=2**32 - 1, offset=2**45),
        Carry({Source.STDERR: Unfinished(NOW, rest)}, last_time=NOW),
        first_sequence + len(lines),
    )
    raw = encode(Block(Batch(first_sequence, lines), checkpoint), IDENTITY)

    header = BlockHeader.parse(raw)
    body = raw[HEADER_BYTES:]
    header.check(body)

    assert header.checkpoint(body) == checkpoint
    assert decompress(header.payload(body)) == Batch(first_sequence, lines)


def test_times_before_1970_are_kept_as_1970() -> None:
    lines = Lines([datetime(1, 1, 1, tzinfo=UTC)], [Source.STDOUT], ["zero time"])
    raw = encode(Block(Batch(1, lines), Checkpoint(next_sequence=2)), IDENTITY)

    batch = decompress(BlockHeader.parse(raw).payload(raw[HEADER_BYTES:]))

    assert batch is not None
    assert batch.lines.times == [datetime(1970, 1, 1, tzinfo=UTC)]


@untimed
@given(st.data())
def test_no_damaged_byte_goes_unnoticed(data: st.DataObject) -> None:
    raw = bytearray(encode(a_block(1, ["a", "b"]), IDENTITY))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))

    with pytest.raises(NotABlock):
        BlockHeader.parse(bytes(raw)).check(bytes(raw[HEADER_BYTES:]))


def test_a_large_block_is_split_for_the_wire() -> None:
    texts = [f"{number:064x}{number * 7919:032x}" for number in range(500)]
    raw = encode(a_block(10, texts), IDENTITY)
    payload = BlockHeader.parse(raw).payload(raw[HEADER_BYTES:])

    parts = split(payload, IDENTITY, bytes_max=len(payload) // 3)

    batches = [batch for _, _, part in parts if (batch := decompress(part)) is not None]
    assert [text for batch in batches for text in batch.lines.texts] == texts
    assert [batch.first_sequence for batch in batches] == [first for first, _, _ in parts]
    assert all(len(part) <= len(payload) // 3 for _, _, part in parts)
