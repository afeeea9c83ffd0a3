"""Show a page of what a job or deployment has printed, or search in it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from services.chassis.clock import Clock
from services.chassis.errors import InvalidArgument
from services.chassis.tenancy import TenantId
from services.log_collector.domain.log_stream import (
    LogStream,
    OwnerKind,
    StreamState,
    up_to_a_gap,
)
from services.log_collector.domain.records import LogFilter, LogPosition, LogRecord
from services.log_collector.use_cases.output_reader import OutputReader
from services.log_collector.use_cases.page import Page
from services.log_collector.use_cases.ports import Scan, UnitOfWork

RECORD_COUNT_DEFAULT: Final = 500
RECORD_COUNT_MAX: Final = 5000
_LOOKS_MAX: Final = 128
"""Looks a page; a search for what is rare then goes on from `next`."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """Records with the attempt of each; `is_complete` when nothing will ever follow."""

    records: Sequence[tuple[LogStream, LogRecord]]
    next: LogPosition
    is_complete: bool


@dataclass(frozen=True, slots=True)
class ReadLogs:
    """Read an owner's output in order of attempt and sequence; another tenant's is empty."""

    unit_of_work: UnitOfWork
    reader: OutputReader
    clock: Clock

    async def __call__(
        self,
        tenant: TenantId,
        owner_id: str,
        *,
        after: LogPosition,
        record_count_max: int,
        wanted: LogFilter,
    ) -> LogPage:
        """Return the next records. Raises InvalidArgument."""
        if not 0 <= record_count_max <= RECORD_COUNT_MAX:
            raise InvalidArgument("record_count_max", f"must be 0..{RECORD_COUNT_MAX}")
        # Before the records: of a stream that is complete by then, all of them are found.
        async with self.unit_of_work(tenant) as tx:
            streams = await tx.streams.of_owner(owner_id)
        at = self.clock.now()
        known = up_to_a_gap(streams, after_number=after.attempt_number, at=at)
        due = known if wanted.attempt_number is None else streams
        page = Page(record_count_max or RECORD_COUNT_DEFAULT)
        position = after
        look_count = 0
        async for stream, scan in self._looks(due, after, wanted):
            for record in wanted.records_of(scan.batches):
                page.add(stream, record)
                if page.is_full:
                    position = LogPosition(stream.attempt_number, record.sequence)
                    return LogPage(page.records, position, is_complete=False)
            position = LogPosition(stream.attempt_number, scan.through)
            look_count += 1
            if look_count == _LOOKS_MAX:
                return LogPage(page.records, position, is_complete=False)
        is_whole = bool(streams) and len(known) == len(streams)
        is_complete = is_whole and all(stream.state is StreamState.COMPLETED for stream in streams)
        return LogPage(page.records, position, is_complete)

    async def _looks(
        self, streams: Sequence[LogStream], after: LogPosition, wanted: LogFilter
    ) -> AsyncIterator[tuple[LogStream, Scan]]:
        """Yield looks at what follows a position, attempt by attempt, until nothing does.

        Never past a job's attempt that may get more output: the next page would begin behind it.
        """
        for stream in streams:
            if not wanted.matches_attempt(stream.attempt_number):
                continue
            if (sequence := after.sequence_in(stream.attempt_number)) is None:
                continue
            while True:
                scan = await self.reader.after(stream.attempt_id, sequence, wanted=wanted)
                if scan.through == sequence:
                    break
                yield stream, scan
                sequence = scan.through
            if stream.owner_kind is OwnerKind.JOB and stream.state is not StreamState.COMPLETED:
                return
