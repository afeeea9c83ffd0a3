"""Show what a job or deployment prints, as it prints it."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from services.chassis.clock import Clock
from services.chassis.errors import QueueFull, Unavailable
from services.chassis.tenancy import TenantId
from services.chassis.waiting import is_set_within
from services.log_collector import telemetry
from services.log_collector.domain.log_stream import (
    LogStream,
    OwnerKind,
    StreamState,
    up_to_a_gap,
)
from services.log_collector.domain.records import LogFilter, LogPosition, LogRecord
from services.log_collector.use_cases.live_output import LiveOutput
from services.log_collector.use_cases.output_reader import OutputReader
from services.log_collector.use_cases.page import Page
from services.log_collector.use_cases.ports import UnitOfWork

_LOOK_INTERVAL: Final = timedelta(seconds=1)
"""Fallback only: this process's own changes wake a follower at once, another process's don't."""
_QUIET_INTERVAL: Final = timedelta(seconds=10)
"""Who follows hears so often that there is nothing new, and can look why."""
_RECORDS_PER_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Followed:
    """The next records with the attempt of each; `is_complete` with the last, and only then.

    Nothing of both: there was no output for a while.
    """

    records: Sequence[tuple[LogStream, LogRecord]] = ()
    is_complete: bool = False
    last_attempt_number: int = 0
    """With `is_complete`: whether another attempt follows its owner knows."""


@dataclass(slots=True)
class FollowLogs:
    """Follow an owner's output from a point on, through its attempts, until all are complete.

    A job's attempts follow each other; the replicas of a deployment print at the same time. May
    begin before the first attempt exists. Ends without `is_complete` when the process is to stop:
    the caller resumes elsewhere after the last record that it has.
    """

    unit_of_work: UnitOfWork
    reader: OutputReader
    live: LiveOutput
    clock: Clock
    followers_max: int
    _follower_count: int = 0

    async def __call__(
        self, tenant: TenantId, owner_id: str, *, after: LogPosition, wanted: LogFilter
    ) -> AsyncGenerator[Followed, None]:
        """Yield pages as they come. Raises QueueFull, Unavailable."""
        if self._follower_count >= self.followers_max:
            raise QueueFull(
                "log followers", limit=self.followers_max, retry_after=timedelta(seconds=5)
            )
        self._follower_count += 1
        telemetry.FOLLOWERS.inc()
        try:
            follow = _Follow(self, tenant, owner_id, after, wanted)
            async for page in follow.pages():
                yield page
        finally:
            self._follower_count -= 1
            telemetry.FOLLOWERS.dec()

    async def streams_of(self, tenant: TenantId, owner_id: str) -> Sequence[LogStream]:
        """Return the owner's streams, by attempt number."""
        async with self.unit_of_work(tenant) as tx:
            return await tx.streams.of_owner(owner_id)


@dataclass(slots=True)
class _Follow:
    """One follower, and how far it has come in each attempt."""

    use_case: FollowLogs
    tenant: TenantId
    owner_id: str
    after: LogPosition
    wanted: LogFilter
    _through: dict[str, int] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)

    async def pages(self) -> AsyncGenerator[Followed, None]:
        live, clock = self.use_case.live, self.use_case.clock
        signal = live.signal_of(self.owner_id)
        streams: Sequence[LogStream] = ()
        version, looked_at, told_at = -1, 0.0, clock.monotonic()
        while not live.is_draining:
            changed = signal.next()
            idle_s = clock.monotonic() - looked_at
            if version != live.streams_version or idle_s >= _LOOK_INTERVAL.total_seconds():
                is_first = version < 0
                version, looked_at = live.streams_version, clock.monotonic()
                try:
                    found = await self.use_case.streams_of(self.tenant, self.owner_id)
                    streams = self._followed(found)
                except Unavailable:
                    # Output goes on without the database: only what has changed is seen later.
                    if is_first:
                        raise
            has_news = False
            async for page in self._all_news(streams):
                has_news = True
                yield page
            if streams and all(stream.attempt_id in self._ended for stream in streams):
                yield Followed(is_complete=True, last_attempt_number=streams[-1].attempt_number)
                return
            if has_news:
                told_at = clock.monotonic()
                continue
            if clock.monotonic() - told_at >= _QUIET_INTERVAL.total_seconds():
                yield Followed()
                told_at = clock.monotonic()
            else:
                await is_set_within(changed, _LOOK_INTERVAL.total_seconds())

    def _followed(self, streams: Sequence[LogStream]) -> Sequence[LogStream]:
        if self.wanted.attempt_number is None:
            at = self.use_case.clock.now()
            streams = up_to_a_gap(streams, after_number=self.after.attempt_number, at=at)
        return [
            stream
            for stream in streams
            if self.after.sequence_in(stream.attempt_number) is not None
            and self.wanted.matches_attempt(stream.attempt_number)
        ]

    async def _all_news(self, streams: Sequence[LogStream]) -> AsyncGenerator[Followed, None]:
        for stream in streams:
            if stream.attempt_id in self._ended:
                continue
            async for page in self._news(stream):
                yield page
            if stream.owner_kind is OwnerKind.JOB and stream.attempt_id not in self._ended:
                break  # the next attempt's output comes after all of this one's

    async def _news(self, stream: LogStream) -> AsyncGenerator[Followed, None]:
        """Yield what a stream has got since; notes its end when nothing will follow."""
        through = self._through.get(stream.attempt_id)
        if through is None:
            through = self.after.sequence_in(stream.attempt_number) or 0
        while not self.use_case.live.is_draining:
            scan = await self.use_case.reader.after(stream.attempt_id, through, wanted=self.wanted)
            if scan.through == through:
                # The state was read before: what a complete stream holds was there to be found.
                if stream.state is StreamState.COMPLETED:
                    self._ended.add(stream.attempt_id)
                return
            page = Page(_RECORDS_PER_PAGE)
            for record in self.wanted.records_of(scan.batches):
                page.add(stream, record)
                if page.is_full:
                    yield Followed(page.records)
                    page = Page(_RECORDS_PER_PAGE)
            through = self._through[stream.attempt_id] = scan.through
            if page.records:
                yield Followed(page.records)
