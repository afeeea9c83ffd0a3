"""An attempt was created: its output is to be expected."""

from dataclasses import dataclass
from datetime import datetime

from services.chassis.tenancy import TenantId
from services.log_collector.domain.log_stream import LogLocation, LogStream, OwnerKind, StreamState
from services.log_collector.use_cases.live_output import LiveOutput
from services.log_collector.use_cases.ports import Transaction, UnitOfWork


@dataclass(frozen=True, slots=True)
class AttemptEvent:
    """What each event says of an attempt; events may come in any order, once or more."""

    event_id: str
    tenant: TenantId
    attempt_id: str
    owner_kind: OwnerKind
    owner_id: str
    attempt_number: int
    """Its place in the owner's output, where a job's tasks each have their own."""
    node_id: str
    at: datetime
    location: LogLocation | None = None
    is_end_seen: bool = True
    traceparent: str | None = None


async def stream_of(tx: Transaction, event: AttemptEvent) -> LogStream:
    """Return the attempt's stream, made now if this is the first event of it that arrives.

    Raises DuplicateEvent, Conflict when another event of the owner comes first.
    """
    await tx.claim_event(event.event_id)
    stream = await tx.streams.find(event.attempt_id)
    if stream is not None:
        return stream
    number = event.attempt_number
    if event.owner_kind is OwnerKind.REPLICA:
        # Each replica numbers its own attempts, but positions are in the deployment's output.
        number = await tx.streams.next_number(event.owner_id)
    stream = LogStream(
        attempt_id=event.attempt_id,
        tenant=event.tenant,
        owner_kind=event.owner_kind,
        owner_id=event.owner_id,
        attempt_number=number,
        node_id=event.node_id,
        state=StreamState.EXPECTED,
        expected_at=event.at,
        traceparent=event.traceparent,
    )
    await tx.streams.add(stream)
    return stream


@dataclass(frozen=True, slots=True)
class ExpectStream:
    """Make followers of the owner wait for this attempt's output."""

    unit_of_work: UnitOfWork
    live: LiveOutput

    async def __call__(self, event: AttemptEvent) -> None:
        """Store the stream. Raises DuplicateEvent, Conflict."""
        async with self.unit_of_work(event.tenant) as tx:
            stream = await stream_of(tx, event)
        self.live.stream_changed(stream)
