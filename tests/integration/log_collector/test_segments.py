"""What was stored is read back whole, whatever a crash has left behind it."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from services.chassis.errors import FailedPrecondition, Unavailable
from services.log_collector.adapters.segments import store as segment_store
from services.log_collector.adapters.segments.block_format import (
    HEADER_BYTES,
    StreamIdentity,
    encode,
)
from services.log_collector.adapters.segments.store import SegmentStore, open_segment_store
from services.log_collector.domain.checkpoint import Block, Checkpoint
from services.log_collector.domain.records import Batch, LogFilter
from tests.unit.log_collector.builders import NOW, a_block, a_stream, some_lines

IDENTITY = StreamIdentity(attempt_id="att_1", tenant="acme", owner_id="job_1", attempt_number=1)
ANY = LogFilter()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SegmentStore]:
    async with open_segment_store(tmp_path, segment_bytes_max=4096) as store:
        yield store


async def stored_texts(
    store: SegmentStore, *, after: int = 0, wanted: LogFilter = ANY
) -> list[str]:
    texts: list[str] = []
    while True:
        scan = await store.scan("att_1", after=after, wanted=wanted, bytes_max=1000)
        if scan.through == after:
            return texts
        for batch in scan.batches:
            texts += batch.lines.texts
        after = scan.through


async def test_a_writer_goes_on_behind_the_newest_block_when_opened_again(
    store: SegmentStore,
) -> None:
    async with store.open_writer(a_stream()) as writer:
        assert writer.checkpoint == Checkpoint()
        await writer.append(a_block(1, ["a", "b"], offset=10))
        await writer.append(a_block(3, ["c"], offset=20))
    async with store.open_writer(a_stream()) as writer:
        assert writer.checkpoint == a_block(3, ["c"], offset=20).checkpoint
        await writer.append(a_block(4, ["d"]))

    assert await stored_texts(store) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("kept_bytes", [1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 9])
async def test_a_torn_end_is_cut_and_written_again(
    store: SegmentStore, tmp_path: Path, kept_bytes: int
) -> None:
    async with store.open_writer(a_stream()) as writer:
        await writer.append(a_block(1, ["a"], offset=10))
    torn = encode(a_block(2, ["b"]), IDENTITY)[:kept_bytes]
    (segment,) = (tmp_path / "att_1").glob("*.seg")
    with segment.open("ab") as file:
        file.write(torn)
    assert await stored_texts(store) == ["a"]

    async with store.open_writer(a_stream()) as writer:
        assert writer.checkpoint.next_sequence == 2
        await writer.append(a_block(2, ["b"]))

    assert await stored_texts(store) == ["a", "b"]


async def test_a_torn_first_block_of_a_segment_leaves_the_checkpoint_of_the_one_before(
    store: SegmentStore, tmp_path: Path
) -> None:
    async with store.open_writer(a_stream()) as writer:
        await writer.append(a_block(1, ["a"], offset=10))
    (tmp_path / "att_1" / f"{2:020}.seg").write_bytes(b"MYL1 torn")

    async with store.open_writer(a_stream()) as writer:
        assert writer.checkpoint.next_sequence == 2
        await writer.append(a_block(2, ["b"]))

    assert await stored_texts(store) == ["a", "b"]


async def test_a_damaged_block_inside_is_skipped_up_to_the_next_segment(tmp_path: Path) -> None:
    async with (
        open_segment_store(tmp_path, segment_bytes_max=4096) as store,
        store.open_writer(a_stream()) as writer,
    ):
        for sequence in range(1, 60):
            await writer.append(a_block(sequence, [f"line {sequence}"]))
    first, second, *_ = sorted((tmp_path / "att_1").glob("*.seg"))
    raw = bytearray(first.read_bytes())
    raw[len(raw) // 2] ^= 255
    first.write_bytes(raw)

    async with open_segment_store(tmp_path, segment_bytes_max=4096) as store:
        texts = await stored_texts(store)

    assert texts[-1] == "line 59"
    assert f"line {int(second.stem)}" in texts
    assert len(texts) < 59


async def test_a_store_has_one_process(store: SegmentStore, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition):
        async with open_segment_store(tmp_path, segment_bytes_max=4096):
            pass


async def test_any_sequence_is_found_over_segments(store: SegmentStore) -> None:
    async with store.open_writer(a_stream()) as writer:
        for sequence in range(1, 200, 2):
            await writer.append(a_block(sequence, [str(sequence), str(sequence + 1)]))

    for after in (0, 1, 2, 57, 198, 199):
        assert await stored_texts(store, after=after) == [
            str(number) for number in range(after + 1, 201)
        ]


async def test_blocks_without_a_match_are_looked_at_and_left_out(store: SegmentStore) -> None:
    async with store.open_writer(a_stream()) as writer:
        await writer.append(a_block(1, ["a needle"]))
        await writer.append(a_block(2, ["hay"]))
        late = some_lines(["needle, late"], at=NOW + timedelta(hours=1))
        await writer.append(Block(Batch(3, late), Checkpoint(next_sequence=4)))

    scan = await store.scan(
        "att_1",
        after=0,
        wanted=LogFilter(contains="needle", until=NOW + timedelta(minutes=1)),
        bytes_max=10_000,
    )

    assert [batch.first_sequence for batch in scan.batches] == [1]
    assert scan.through == 3


async def test_an_attempt_that_was_never_stored_is_empty(store: SegmentStore) -> None:
    assert await stored_texts(store) == []


async def test_published_blocks_are_not_given_out_again(store: SegmentStore) -> None:
    async with store.open_writer(a_stream()) as writer:
        await writer.append(a_block(1, ["a"]))
        await writer.append(a_block(2, ["b"]))
        assert list(await store.unpublished_attempts()) == ["att_1"]
        both = await store.publishable("att_1", bytes_max=10_000, block_bytes_max=10_000)
        assert [block.first_sequence for block in both.blocks] == [1, 2]

        await store.mark_published("att_1", through=1)
        rest = await store.publishable("att_1", bytes_max=10_000, block_bytes_max=10_000)
        assert [block.first_sequence for block in rest.blocks] == [2]
        assert list(await store.unpublished_attempts()) == ["att_1"]

        await store.mark_published("att_1", through=2)
        assert list(await store.unpublished_attempts()) == []
        await writer.append(a_block(3, ["c"]))
        assert list(await store.unpublished_attempts()) == ["att_1"]


async def test_a_block_written_while_the_cursor_moves_is_published_after_a_crash(
    store: SegmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.open_writer(a_stream()) as writer:
        await writer.append(a_block(1, ["a"]))
        size_of = segment_store._stored_bytes

        def append_and_size(folder: Path) -> int:
            writer._append(a_block(2, ["b"]))
            return size_of(folder)

        monkeypatch.setattr(segment_store, "_stored_bytes", append_and_size)
        await store.mark_published("att_1", through=1)
        monkeypatch.undo()

    assert list(await store.unpublished_attempts()) == ["att_1"]


async def test_a_failing_disk_is_told_from_a_bug(store: SegmentStore, tmp_path: Path) -> None:
    async with store.open_writer(a_stream()) as writer:
        await writer.append(a_block(1, ["a"]))
    (tmp_path / "att_1" / "published.new").mkdir()  # the cursor can't be written

    with pytest.raises(Unavailable):
        await store.mark_published("att_1", through=1)
