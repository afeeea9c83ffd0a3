"""From the outbox to the broker: what was committed is sent, in order, at least once.

Owns: when which rows are read, sent and marked. Leaves the statements to an `Outbox`: PostgreSQL's,
or a simulation's (ADR-0025). Runs in every process that writes and is woken by its commits; the
shards of the outbox are leases, so that at any time one process sends a key's events. Leaves
deleting to `janitor` and duplicates to the readers' inbox: a crash between acknowledgement and mark
sends a row again.

Always holds: no transaction is open while the broker is waited for; a key stops at its first
failure and goes on from there; a row is marked only after its acknowledgement and only under the
lease's epoch. Who could act late: a relay that was paused after reading. What refuses it: it looks
at its monotonic clock before it sends, and the mark checks the epoch; what it still sent are
duplicates with known ids.
"""

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from loguru import logger
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from services.chassis.clock import Clock
from services.chassis.db import telemetry
from services.chassis.db.lease import HeldLease, LeaseKeeper, Leases
from services.chassis.db.tables import OUTBOX_LEASE_PREFIX, SHARD_COUNT, shard_of
from services.chassis.errors import ModelyardError, Unavailable
from services.chassis.events.envelope import NewEvent, record_of
from services.chassis.events.ports import Producer, Record
from services.chassis.telemetry.tracing import links_to, tracer
from services.chassis.tenancy import TenantId
from services.chassis.waiting import is_set_within

_LETS_PASS_MAX_S: Final = 0.02
"""So long a pass waits while transactions are open: somebody waits for their commits, and what they
emit leaves with it."""
_BACKOFF_MIN_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0
_STOPPED_KEYS_MAX: Final = 1_000


class OutboxRow(Protocol):
    """An event that was committed; the columns of `chassis_tables`' outbox."""

    @property
    def seq(self) -> int: ...  # noqa: D102
    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def aggregatetype(self) -> str: ...  # noqa: D102
    @property
    def aggregateid(self) -> str: ...  # noqa: D102
    @property
    def type(self) -> str: ...  # noqa: D102
    @property
    def payload(self) -> bytes: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def subject(self) -> str: ...  # noqa: D102
    @property
    def tenant(self) -> TenantId: ...  # noqa: D102
    @property
    def dataschema(self) -> str: ...  # noqa: D102
    @property
    def traceparent(self) -> str | None: ...  # noqa: D102
    @property
    def tracestate(self) -> str | None: ...  # noqa: D102
    @property
    def time(self) -> datetime: ...  # noqa: D102


Rows = Sequence[OutboxRow]
Failures = Mapping[str, tuple[OutboxRow, Exception]]


class Outbox(Protocol):
    """Committed events of one service's database; each call is a transaction of its own."""

    async def unpublished(
        self, shards: Collection[int], *, stopped: Collection[str], rows_max: int
    ) -> Rows:
        """Return unpublished rows of these shards in the order of commits, but for stopped keys.

        Raises Unavailable.
        """
        ...

    async def mark(self, rows: Rows, leases: Collection[HeldLease]) -> int:
        """Call rows published, those of shards that are held still, and keep them held meanwhile.

        Returns how many were marked. Raises Unavailable.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Stopped:
    """A key whose first unpublished row could not be sent: nothing of it is read for a while."""

    since: datetime  # when that row's fact came to be
    failure_count: int
    retry_at: float  # by the monotonic clock


class Relay:
    """Sends one service's outbox; several processes may run it, each shard has one sender.

    `holder` is this process incarnation, `idle` its unit of work's. A commit of this process wakes
    it at once (`wake` as a unit of work's listener); rows of other processes wait for
    `poll_interval` at most. After a crash of the sender another process goes on within `lease_ttl`.
    """

    def __init__(
        self,
        outbox: Outbox,
        leases: Leases,
        producer: Producer,
        *,
        holder: str,
        clock: Clock,
        idle: asyncio.Event,
        shards: Sequence[int] = range(SHARD_COUNT),
        batch_rows_max: int = 500,
        poll_interval: timedelta = timedelta(milliseconds=250),
        lease_ttl: timedelta = timedelta(seconds=10),
    ) -> None:
        self._outbox = outbox
        self._producer = producer
        self._clock = clock
        self._idle = idle
        self._batch_rows_max = batch_rows_max
        self._poll_interval = poll_interval
        self._woken = asyncio.Event()
        self._stopped: dict[str, _Stopped] = {}
        self.keepers: Mapping[int, LeaseKeeper] = {
            shard: LeaseKeeper(
                leases,
                f"{OUTBOX_LEASE_PREFIX}{shard}",
                holder=holder,
                ttl=lease_ttl,
                clock=clock,
            )
            for shard in shards
        }

    def wake(self) -> None:
        """Look at the outbox now; for `PostgresUnitOfWork.add_listener`."""
        self._woken.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Relay until `stopping` is set, then once more, then give the shards back."""
        relayed = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for keeper in self.keepers.values():
                tasks.create_task(keeper.run(relayed))
            tasks.create_task(self._wake_when(stopping))
            await self._relay_until(stopping)
            relayed.set()

    async def relay_once(self) -> bool:
        """Read one batch, send it, mark it; tell whether there is more to do at once.

        Raises Unavailable while the database is down or the broker takes nothing.
        """
        # 1. What may this process send?
        leases = {shard: held for shard, keeper in self.keepers.items() if (held := keeper.held)}
        if not leases:
            return False
        # 2. Which keys are still put off? Others are tried again, or were never in trouble.
        earlier, self._stopped = self._stopped, self._still_stopped(leases)
        # 3. A batch in the order of commits; the transaction ends with the read.
        rows = await self._outbox.unpublished(
            leases.keys(), stopped=self._stopped.keys(), rows_max=self._batch_rows_max
        )
        self._observe(rows)
        # 4. That may have taken long: what another sends by now is not ours to send.
        is_full = len(rows) == self._batch_rows_max
        if lost := {shard for shard, held in leases.items() if self.keepers[shard].held != held}:
            rows = [row for row in rows if shard_of(row.aggregateid) not in lost]
        if not rows:
            return False
        # 5. Send with no transaction open; a key's rows after its first failure count as not sent.
        acknowledged, failed = await self._send(rows)
        self._stop(failed, earlier)
        # 6. Mark, unless the shard has gone to another process meanwhile.
        marked_count = await self._mark(acknowledged, leases)
        return marked_count > 0 and is_full

    async def _relay_until(self, stopping: asyncio.Event) -> None:
        outages = 0
        while not stopping.is_set():
            await is_set_within(self._idle, _LETS_PASS_MAX_S)
            self._woken.clear()
            try:
                more = await self.relay_once()
            except ModelyardError as error:
                outages += 1
                logger.warning("outbox not relayed", error=str(error))
                await is_set_within(stopping, _backoff_s(outages))
                continue
            outages = 0
            if not more:
                await is_set_within(self._woken, self._poll_interval.total_seconds())
        # What the last requests have committed before they ended.
        with contextlib.suppress(ModelyardError):
            await self.relay_once()

    async def _wake_when(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._woken.set()

    def _still_stopped(self, leases: Mapping[int, HeldLease]) -> dict[str, _Stopped]:
        now = self._clock.monotonic()
        return {
            key: stop
            for key, stop in self._stopped.items()
            if now < stop.retry_at and shard_of(key) in leases
        }

    async def _send(self, rows: Rows) -> tuple[Rows, Failures]:
        """Return the rows to mark, and of each key that failed its first row and why.

        Raises Unavailable when the broker takes nothing: no key is to blame then.
        """
        # An own trace, begun in an empty context: the loop runs under whatever woke it.
        with tracer(__name__).start_as_current_span(
            "send outbox",
            context=Context(),
            kind=SpanKind.CLIENT,
            links=links_to(row.traceparent for row in rows),
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.type": "send",
                "messaging.batch.message_count": len(rows),
            },
        ):
            outcomes = await self._producer.send_all([_record(row) for row in rows])
        acknowledged = []
        failed: dict[str, tuple[OutboxRow, Exception]] = {}
        for row, error in zip(rows, outcomes, strict=True):
            if row.aggregateid in failed:
                continue  # acknowledged or not, it goes again after the failed one
            if error is None:
                acknowledged.append(row)
            else:
                failed[row.aggregateid] = (row, error)
        telemetry.OUTBOX_FAILED.inc(len(failed))
        if acknowledged:
            telemetry.OUTBOX_LAG.observe(self._age_s(acknowledged[0].time))
        elif all(_is_transient(error) for _, error in failed.values()):
            raise Unavailable("broker") from outcomes[0]
        return acknowledged, failed

    def _stop(self, failed: Failures, earlier: Mapping[str, _Stopped]) -> None:
        """Put off each key that failed, longer each time.

        A row that the broker refuses for good keeps its key stopped: skipping it would lose an
        event, so a person has to look (the alert is on the oldest row's age).
        """
        for key, (row, error) in failed.items():
            logger.error(
                "outbox key stopped", event_id=row.id, topic=row.aggregatetype, error=str(error)
            )
            if len(self._stopped) >= _STOPPED_KEYS_MAX:
                continue  # read again at once: costs a place in each batch, never the order
            count = earlier[key].failure_count + 1 if key in earlier else 1
            retry_at = self._clock.monotonic() + _backoff_s(count)
            self._stopped[key] = _Stopped(row.time, count, retry_at)
        telemetry.OUTBOX_STOPPED_KEYS.set(len(self._stopped))

    async def _mark(self, rows: Rows, leases: Mapping[int, HeldLease]) -> int:
        """Return how many were marked: those of shards that are held still."""
        if not rows:
            return 0
        marked_count = await self._outbox.mark(rows, leases.values())
        telemetry.OUTBOX_PUBLISHED.inc(marked_count)
        if marked_count < len(rows):
            logger.warning("sent events go again", event_count=len(rows) - marked_count)
        return marked_count

    def _observe(self, rows: Rows) -> None:
        waiting = [stop.since for stop in self._stopped.values()] + [row.time for row in rows[:1]]
        telemetry.OUTBOX_OLDEST.set(self._age_s(min(waiting)) if waiting else 0)
        telemetry.OUTBOX_STOPPED_KEYS.set(len(self._stopped))

    def _age_s(self, time: datetime) -> float:
        return max(0.0, (self._clock.now() - time).total_seconds())


def _record(row: OutboxRow) -> Record:
    """Return the record of a row; its traceparent is the fact's own, never the relay's."""
    event = NewEvent(
        topic=row.aggregatetype,
        key=row.aggregateid,
        type=row.type,
        subject=row.subject,
        tenant=row.tenant,
        data=row.payload,
        dataschema=row.dataschema,
        traceparent=row.traceparent,
    )
    return record_of(
        event, event_id=row.id, source=row.source, time=row.time, tracestate=row.tracestate
    )


def _is_transient(error: Exception) -> bool:
    return isinstance(error, ModelyardError) and error.retryable


def _backoff_s(failure_count: int) -> float:
    return min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2.0 ** min(failure_count - 1, 10))
