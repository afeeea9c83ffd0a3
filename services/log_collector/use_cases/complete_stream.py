"""All output of an attempt is stored: say so."""

from dataclasses import dataclass

from services.chassis.clock import Clock
from services.log_collector import telemetry
from services.log_collector.domain.log_stream import LogStream
from services.log_collector.use_cases.live_output import LiveOutput
from services.log_collector.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class CompleteStream:
    """Complete a stream whose records are all stored and synced; its container may go."""

    unit_of_work: UnitOfWork
    live: LiveOutput
    clock: Clock

    async def __call__(self, attempt: LogStream, *, record_count: int) -> None:
        """Store and publish the end; nothing happens when it was completed before."""
        async with self.unit_of_work(attempt.tenant) as tx:
            stream = await tx.streams.find(attempt.attempt_id)
            if stream is None:
                return  # it was complete, which we had not heard, and its tenant was purged
            stream, fact = stream.completed(record_count=record_count, at=self.clock.now())
            await tx.streams.save(stream)
            if fact is not None:
                tx.emit(fact)
        telemetry.record_collected(stream)
        self.live.stream_changed(stream)
