"""An attempt has ended: its stream is complete once all that it left is stored."""

from dataclasses import dataclass

from services.log_collector.use_cases.expect_stream import AttemptEvent, stream_of
from services.log_collector.use_cases.live_output import LiveOutput
from services.log_collector.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class EndStream:
    """Let a stream come to its end; one that never wrote anything is complete at once."""

    unit_of_work: UnitOfWork
    live: LiveOutput

    async def __call__(self, event: AttemptEvent) -> None:
        """End the stream. Raises DuplicateEvent, Conflict."""
        async with self.unit_of_work(event.tenant) as tx:
            stream, fact = (await stream_of(tx, event)).ended(
                at=event.at, location=event.location, is_end_seen=event.is_end_seen
            )
            await tx.streams.save(stream)
            if fact is not None:
                tx.emit(fact)
        self.live.stream_changed(stream)
