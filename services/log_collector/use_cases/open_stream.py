"""An attempt runs: its output is to be collected."""

from dataclasses import dataclass

from services.chassis.errors import InvalidArgument
from services.log_collector.use_cases.expect_stream import AttemptEvent, stream_of
from services.log_collector.use_cases.live_output import LiveOutput
from services.log_collector.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Have an attempt's output collected, unless its end was heard of before its start."""

    unit_of_work: UnitOfWork
    live: LiveOutput

    async def __call__(self, event: AttemptEvent) -> None:
        """Open the stream. Raises DuplicateEvent, Conflict, InvalidArgument."""
        if event.location is None:
            raise InvalidArgument("log_location", "is required of an attempt that has started")
        async with self.unit_of_work(event.tenant) as tx:
            stream, fact = (await stream_of(tx, event)).opened(event.location, at=event.at)
            await tx.streams.save(stream)
            if fact is not None:
                tx.emit(fact)
        self.live.stream_changed(stream)
