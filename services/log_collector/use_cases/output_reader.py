"""Reads one stream in sequence, from memory where it is new and from the store where it is not."""

from dataclasses import dataclass
from typing import Final

from services.log_collector.domain.records import LogFilter
from services.log_collector.use_cases.live_output import LiveOutput
from services.log_collector.use_cases.ports import LogStore, Scan

SCAN_BYTES_MAX: Final = 2 * 1024 * 1024
"""Bytes a look: what one reader takes of memory and of the readers' threads in one turn."""


@dataclass(frozen=True, slots=True)
class OutputReader:
    """The one sequence space of stored and live records."""

    store: LogStore
    live: LiveOutput

    async def after(self, attempt_id: str, sequence: int, *, wanted: LogFilter) -> Scan:
        """Return what follows a sequence; its `through` equals the sequence when nothing does."""
        tail = self.live.tail(attempt_id)
        if tail is not None and (batches := tail.after(sequence)) is not None:
            return Scan(batches, max(sequence, tail.last_sequence))
        return await self.store.scan(
            attempt_id, after=sequence, wanted=wanted, bytes_max=SCAN_BYTES_MAX
        )
