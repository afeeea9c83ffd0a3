"""A block on disk and on the wire.

    header    magic, checksums, lengths, sequences, times, position in the container's file
    carry     JSON: unfinished lines
    payload   zstd(LogBlock), sent to Kafka as it is

Always holds: a block whose checksums match was written whole; anything else is no block.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from typing import Final, Self

import msgspec
import zstandard
from modelyard.logs.v1.log_record_pb2 import LogBlock, LogColumns

from services.log_collector.domain.assembly import Carry
from services.log_collector.domain.checkpoint import Block, Checkpoint, FilePosition
from services.log_collector.domain.records import Batch, Lines, Mark, Source

_MAGIC: Final = b"MYL1"
_PREFIX: Final = struct.Struct("<4sI")  # magic, checksum of the rest of the header
_FIELDS: Final = struct.Struct("<IIIQIqqQQIQ")
HEADER_BYTES: Final = _PREFIX.size + _FIELDS.size
_ZSTD_LEVEL: Final = 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class StreamIdentity(msgspec.Struct, frozen=True):
    """Whose records an attempt's blocks hold; each block on the wire says so."""

    attempt_id: str
    tenant: str
    owner_id: str
    attempt_number: int


class NotABlock(Exception):
    """The bytes are no whole block; `reason` is for the log."""


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """What can be known of a block without its body."""

    carry_bytes: int
    payload_bytes: int
    body_checksum: int
    first_sequence: int
    record_count: int
    first_time_us: int
    last_time_us: int
    device: int
    inode: int
    fingerprint: int
    offset: int

    @property
    def next_sequence(self) -> int:
        """Sequence of the record after the block."""
        return self.first_sequence + self.record_count

    @property
    def body_bytes(self) -> int:
        """Length of all that follows the header."""
        return self.carry_bytes + self.payload_bytes

    @property
    def first_time(self) -> datetime:
        """Earliest time of a record."""
        return _EPOCH + self.first_time_us * _MICROSECOND

    @property
    def last_time(self) -> datetime:
        """Latest time of a record."""
        return _EPOCH + self.last_time_us * _MICROSECOND

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Return the header at the start of `raw`. Raises NotABlock."""
        if len(raw) < HEADER_BYTES:
            raise NotABlock("the header is cut off")
        magic, checksum = _PREFIX.unpack_from(raw)
        fields = raw[_PREFIX.size : HEADER_BYTES]
        if magic != _MAGIC or checksum != zlib.crc32(fields):
            raise NotABlock("the header is damaged")
        return cls(*_FIELDS.unpack(fields))

    def check(self, body: bytes) -> None:
        """Raise NotABlock unless this is the body that was written."""
        if len(body) != self.body_bytes:
            raise NotABlock("the body is cut off")
        if zlib.crc32(body) != self.body_checksum:
            raise NotABlock("the body is damaged")

    def checkpoint(self, body: bytes) -> Checkpoint:
        """Return what holds after the block."""
        carry = msgspec.json.decode(body[: self.carry_bytes], type=Carry)
        position = (
            FilePosition(self.device, self.inode, self.fingerprint, self.offset)
            if self.offset
            else None
        )
        return Checkpoint(position, carry, self.next_sequence)

    def payload(self, body: bytes) -> bytes:
        """Return the compressed LogBlock."""
        return body[self.carry_bytes :]


def encode(block: Block, identity: StreamIdentity) -> bytes:
    """Return the block as it is written."""
    batch = block.batch
    times_us = _times_us(batch.lines.times)
    payload = _compress(batch, times_us, identity)
    carry = msgspec.json.encode(block.checkpoint.carry)
    position = block.checkpoint.position or FilePosition(0, 0, 0, 0)
    fields = _FIELDS.pack(
        len(carry),
        len(payload),
        zlib.crc32(payload, zlib.crc32(carry)),
        batch.first_sequence,
        len(batch.lines),
        min(times_us, default=0),
        max(times_us, default=0),
        position.device,
        position.inode,
        position.fingerprint,
        position.offset,
    )
    return b"".join((_PREFIX.pack(_MAGIC, zlib.crc32(fields)), fields, carry, payload))


def _compress(batch: Batch, times_us: Sequence[int], identity: StreamIdentity) -> bytes:
    lines = batch.lines
    stderr = Source.STDERR  # a local name: this is done for each line
    message = LogBlock(
        attempt_id=identity.attempt_id,
        tenant=identity.tenant,
        owner_id=identity.owner_id,
        attempt_number=identity.attempt_number,
        first_sequence=batch.first_sequence,
        columns=LogColumns(
            times_delta_us=[
                *times_us[:1],
                *(later - earlier for earlier, later in pairwise(times_us)),
            ],
            stderr=[source is stderr for source in lines.sources],
            texts=lines.texts,
            cut_at=_marked(lines, Mark.CUT),
            corrupt_at=_marked(lines, Mark.CORRUPT),
            gap_at=_marked(lines, Mark.GAP),
        ),
    )
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(message.SerializeToString())


def decompress(payload: bytes, *, contains: str | None = None) -> Batch | None:
    """Return the batch of a compressed LogBlock, or None when no text can hold `contains`."""
    raw = zstandard.ZstdDecompressor().decompress(payload)
    # Texts lie in the message as they are, so most blocks are ruled out without decoding them.
    if contains is not None and contains.encode() not in raw:
        return None
    message = LogBlock.FromString(raw)
    columns = message.columns
    marks = {
        index: mark
        for mark, indexes in (
            (Mark.CUT, columns.cut_at),
            (Mark.CORRUPT, columns.corrupt_at),
            (Mark.GAP, columns.gap_at),
        )
        for index in indexes
    }
    lines = Lines(
        [_EPOCH + time_us * _MICROSECOND for time_us in accumulate(columns.times_delta_us)],
        [Source.STDERR if is_stderr else Source.STDOUT for is_stderr in columns.stderr],
        list(columns.texts),
        marks,
    )
    return Batch(message.first_sequence, lines)


def split(
    payload: bytes, identity: StreamIdentity, *, bytes_max: int
) -> list[tuple[int, int, bytes]]:
    """Return (first sequence, record count, payload) of parts that are small enough for the wire.

    A lone record stays whole: text of at most 1 MiB compresses to less than 1 MB, whatever it is.
    """
    batch = decompress(payload)
    assert batch is not None, "nothing was searched for"
    if len(payload) <= bytes_max or len(batch.lines) == 1:
        return [(batch.first_sequence, len(batch.lines), payload)]
    parts = []
    for half in batch.halves():
        compressed = _compress(half, _times_us(half.lines.times), identity)
        parts += split(compressed, identity, bytes_max=bytes_max)
    return parts


def _times_us(times: Sequence[datetime]) -> list[int]:
    # A zero time ("0001-01-01") is legal in the file but outside of what protobuf can hold.
    if times and not (min(times) >= _EPOCH and max(times) < _LATEST):
        times = [min(max(time, _EPOCH), _LATEST) for time in times]
    return [(time - _EPOCH) // _MICROSECOND for time in times]


def _marked(lines: Lines, mark: Mark) -> Iterator[int]:
    return (index for index, given in lines.marks.items() if given is mark)
