"""What the use cases need from outside."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from services.chassis.tenancy import TenantId
from services.log_collector.domain.assembly import Item
from services.log_collector.domain.checkpoint import Block, Checkpoint, FilePosition
from services.log_collector.domain.log_stream import (
    LogLocation,
    LogStream,
    StreamState,
    StreamTransitioned,
)
from services.log_collector.domain.records import Batch, LogFilter


class LogStreams(Protocol):
    """The log streams that a transaction may see: one tenant's, or in system work all."""

    async def find(self, attempt_id: str) -> LogStream | None:
        """Return an attempt's stream, which nobody else changes until the commit."""
        ...

    async def of_owner(self, owner_id: str) -> Sequence[LogStream]:
        """Return the streams of a job or deployment, by attempt number."""
        ...

    async def collected_on(self, node_id: str | None, *, limit: int) -> Sequence[LogStream]:
        """Return the streams whose files are to be read on a node (None: on any), oldest first."""
        ...

    async def in_state(
        self,
        state: StreamState,
        tenants: Sequence[TenantId],
        node_id: str | None,
        *,
        offset: int,
        limit: int,
    ) -> Sequence[str]:
        """Return attempts of tenants on a node (None: on any) whose streams are in this state.

        In a fixed order, but for the first `offset`.
        """
        ...

    async def delete(self, attempt_ids: Sequence[str], state: StreamState) -> int:
        """Delete those of the streams that are in this state still; return how many."""
        ...

    async def next_number(self, owner_id: str) -> int:
        """Return a number greater than that of each attempt of the owner so far."""
        ...

    async def add(self, stream: LogStream) -> None:
        """Store a new stream. Raises Conflict when attempt or number is there already."""
        ...

    async def save(self, stream: LogStream) -> None:
        """Store what changed of a stream that was found in this transaction."""
        ...


class Transaction(Protocol):
    """An open transaction."""

    @property
    def streams(self) -> LogStreams: ...  # noqa: D102

    def emit(self, fact: StreamTransitioned) -> None:
        """Publish a fact with the commit."""
        ...

    async def claim_event(self, event_id: str) -> None:
        """Record that this event has its effect here. Raises DuplicateEvent if it had it before."""
        ...


class UnitOfWork(Protocol):
    """Opens transactions; a clean exit commits, any other rolls back."""

    def __call__(self, tenant: TenantId) -> AbstractAsyncContextManager[Transaction]:
        """Open one for a tenant."""
        ...

    def system(self, *, because: str) -> AbstractAsyncContextManager[Transaction]:
        """Open one that is no tenant's."""
        ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next piece of a container's output.

    Without `position` nothing was read: either there is nothing new, or the file `is_absent`.
    """

    items: Sequence[Item] = ()
    position: FilePosition | None = None
    byte_count: int = 0
    is_absent: bool = False


class OutputFile(Protocol):
    """One container's output, over rotations."""

    @property
    def recheck_after(self) -> timedelta:
        """How long to wait for a sign of change before looking without one."""
        ...

    async def read(self, bytes_max: int) -> Chunk:
        """Return the next whole lines; without position at the end of what is written so far."""
        ...

    async def read_rest(self) -> Chunk:
        """Return the last line if it lacks its newline; only after the container has ended."""
        ...

    def lag_bytes(self) -> int:
        """Return how many bytes are written and not yet read."""
        ...


class ContainerOutput(Protocol):
    """What container runtimes on this machine write."""

    def follow(
        self, location: LogLocation, position: FilePosition | None, on_change: Callable[[], None]
    ) -> AbstractContextManager[OutputFile]:
        """Open one container's output behind a position; `on_change` is called when it grows."""
        ...


@dataclass(frozen=True, slots=True)
class Scan:
    """What a look at stored records found; `through` is the last sequence looked at."""

    batches: Sequence[Batch]
    through: int


@dataclass(frozen=True, slots=True)
class PublishableBlock:
    """A stored block as it goes to Kafka."""

    attempt_id: str
    tenant: str
    first_sequence: int
    record_count: int
    payload: bytes

    @property
    def last_sequence(self) -> int:
        """Sequence of its last record."""
        return self.first_sequence + self.record_count - 1


@dataclass(frozen=True, slots=True)
class Publishable:
    """The next blocks of an attempt to publish, and whether there are others behind them."""

    blocks: Sequence[PublishableBlock] = ()
    has_more: bool = False


class BlockWriter(Protocol):
    """Where one stream's blocks go."""

    @property
    def checkpoint(self) -> Checkpoint:
        """What holds after the newest stored block."""
        ...

    @property
    def unsynced_bytes(self) -> int:
        """Bytes that a loss of power could still take."""
        ...

    async def append(self, block: Block) -> None:
        """Store a block; it is readable afterwards. Raises Unavailable."""
        ...

    async def sync(self) -> None:
        """Return when all that was appended survives the machine. Raises Unavailable."""
        ...


class LogStore(Protocol):
    """Stored blocks of all attempts. Each method raises Unavailable when the disk fails."""

    def open_writer(self, stream: LogStream) -> AbstractAsyncContextManager[BlockWriter]:
        """Open a stream for its one collector."""
        ...

    async def scan(self, attempt_id: str, *, after: int, wanted: LogFilter, bytes_max: int) -> Scan:
        """Look at records after a sequence, at about `bytes_max` bytes of them.

        Batches without any that is wanted are left out, the others may hold more than is wanted.
        """
        ...

    async def publishable(
        self, attempt_id: str, *, bytes_max: int, block_bytes_max: int
    ) -> Publishable:
        """Return the next blocks to publish, none larger than `block_bytes_max`."""
        ...

    async def mark_published(self, attempt_id: str, *, through: int) -> None:
        """Remember that everything up to a sequence is published."""
        ...

    async def delete(self, attempt_id: str) -> None:
        """Delete all of an attempt's blocks; again: no change. Nobody may write them."""
        ...

    async def unpublished_attempts(self) -> Sequence[str]:
        """Return the attempts that may hold unpublished blocks."""
        ...


class BlockPublisher(Protocol):
    """Sends blocks to whoever reads `modelyard.container.logs.v1`."""

    async def publish(self, blocks: Sequence[PublishableBlock]) -> Sequence[Exception | None]:
        """Send in order; return for each block None or why it isn't acknowledged.

        Of an attempt none is kept behind one that failed.
        """
        ...
