"""How far a stream has been read, and the block that holds it together with what was read.

Records and position are one value, written in one piece: a position can't run ahead of its records.
"""

from dataclasses import dataclass, field

from services.log_collector.domain.assembly import Carry
from services.log_collector.domain.records import Batch, Lines, joined


@dataclass(frozen=True, slots=True)
class FilePosition:
    """A point in one generation of a log file.

    A file's name moves on at each rotation and inode numbers are used again, so device, inode and a
    checksum of the first line (`fingerprint`) identify a generation together.
    """

    device: int
    inode: int
    fingerprint: int
    offset: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that going on needs: where, with what carried over, and under which sequence."""

    position: FilePosition | None = None
    carry: Carry = field(default_factory=Carry)
    next_sequence: int = 1


@dataclass(frozen=True, slots=True)
class Block:
    """A batch of records with the checkpoint that holds after it."""

    batch: Batch
    checkpoint: Checkpoint


@dataclass(slots=True)
class OpenBlock:
    """The block being filled; it begins where the last one's checkpoint ended."""

    checkpoint: Checkpoint
    character_count: int = 0
    _first_sequence: int = 0
    _parts: list[Lines] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._first_sequence = self.checkpoint.next_sequence

    def __len__(self) -> int:
        return self.checkpoint.next_sequence - self._first_sequence

    def add(self, lines: Lines, *, carry: Carry, position: FilePosition | None) -> Batch:
        """Give the lines their sequences; return them as a batch."""
        batch = Batch(self.checkpoint.next_sequence, lines)
        if lines:
            self._parts.append(lines)
            self.character_count += lines.character_count
        self.checkpoint = Checkpoint(position, carry, batch.last_sequence + 1)
        return batch

    def closed(self) -> Block:
        """Return what was collected."""
        return Block(Batch(self._first_sequence, joined(self._parts)), self.checkpoint)
