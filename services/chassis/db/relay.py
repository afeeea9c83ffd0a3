"""From the outbox to the broker: what was committed is sent, in order, at least once.

Owns: reading unpublished rows, sending them, marking them. Runs in every process that writes and
is woken by its commits; the shards of the outbox are leases, so that at any time one process sends
a key's events. Leaves deleting to `janitor` and duplicates to the readers' inbox: a crash between
acknowledgement and mark sends a row again.

Always holds: no transaction is open while the broker is waited for; a key stops at its first
failure and goes on from there; a row is marked only after its acknowledgement and only under the
lease's epoch. Who could act late: a relay that was paused after reading. What refuses it: it looks
at its monotonic clock before it sends, and the mark checks the epoch; what it still sent are
duplicates with known ids.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from loguru import logger
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.clock import Clock
from services.chassis.db import telemetry
from services.chassis.db.engine import autocommitting, begin
from services.chassis.db.errors import database_errors
from services.chassis.db.lease import HeldLease, LeaseKeeper
from services.chassis.db.tables import SHARD_COUNT, ChassisTables, shard_of
from services.chassis.errors import ModelyardError, Unavailable
from services.chassis.events.envelope import NewEvent, record_of
from services.chassis.events.ports import Producer, Record
from services.chassis.telemetry.tracing import context_from, tracer
from services.chassis.waiting import is_set_within

_LINKS_MAX: Final = 64
_LETS_PASS_MAX_S: Final = 0.02
"""So long a pass waits while transactions are open: somebody waits for their commits, and what they
emit leaves with it."""
_BACKOFF_MIN_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0
_STOPPED_KEYS_MAX: Final = 1_000
_SAMPLED: Final = "-01"
_LEASE_PREFIX: Final = "outbox/"
"""Before a shard's number: the lease of whoever sends it."""
_DATABASE_NOW: Final = sa.func.clock_timestamp()

Rows = Sequence[sa.Row[Any]]
Failures = Mapping[str, tuple[sa.Row[Any], Exception]]


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
        engine: AsyncEngine,
        tables: ChassisTables,
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
        self._engine = engine
        self._autocommitting = autocommitting(engine)
        self._tables = tables
        self._producer = producer
        self._clock = clock
        self._idle = idle
        self._batch_rows_max = batch_rows_max
        self._poll_interval = poll_interval
        self._unpublished_rows = _select_unpublished(tables, batch_rows_max)
        self._mark_held = _mark_held(tables)
        self._woken = asyncio.Event()
        self._stopped: dict[str, _Stopped] = {}
        self.keepers: Mapping[int, LeaseKeeper] = {
            shard: LeaseKeeper(
                engine, tables, f"{_LEASE_PREFIX}{shard}", holder=holder, ttl=lease_ttl, clock=clock
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
        rows = await self._unpublished(leases)
        self._observe(rows)
        if not rows:
            return False
        # 4. Send with no transaction open; a key's rows after its first failure count as not sent.
        acknowledged, failed = await self._send(rows)
        self._stop(failed, earlier)
        # 5. Mark, unless the shard has gone to another process meanwhile.
        marked_count = await self._mark(acknowledged, leases)
        return marked_count > 0 and len(rows) == self._batch_rows_max

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

    async def _unpublished(self, leases: Mapping[int, HeldLease]) -> Rows:
        given = {"shards": list(leases), "stopped": list(self._stopped)}
        with database_errors():
            async with begin(self._autocommitting) as connection:
                rows: Rows = (await connection.execute(self._unpublished_rows, given)).all()
        return rows

    async def _send(self, rows: Rows) -> tuple[Rows, Failures]:
        """Return the rows to mark, and of each key that failed its first row and why.

        Raises Unavailable when the broker takes nothing: no key is to blame then.
        """
        # An own trace, begun in an empty context: the loop runs under whatever woke it.
        with tracer(__name__).start_as_current_span(
            "send outbox",
            context=Context(),
            kind=SpanKind.CLIENT,
            links=_links(rows),
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.type": "send",
                "messaging.batch.message_count": len(rows),
            },
        ):
            outcomes = await self._producer.send_all([_record(row) for row in rows])
        acknowledged = []
        failed: dict[str, tuple[sa.Row[Any], Exception]] = {}
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
        given = {
            "seqs": [row.seq for row in rows],
            "names": [lease.name for lease in leases.values()],
            "holders": [lease.holder for lease in leases.values()],
            "epochs": [lease.epoch for lease in leases.values()],
        }
        with database_errors():
            async with begin(self._autocommitting) as connection:
                marked = await connection.execute(self._mark_held, given)
        telemetry.OUTBOX_PUBLISHED.inc(marked.rowcount)
        if marked.rowcount < len(rows):
            logger.warning("sent events go again", event_count=len(rows) - marked.rowcount)
        return marked.rowcount

    def _observe(self, rows: Rows) -> None:
        waiting = [stop.since for stop in self._stopped.values()] + [row.time for row in rows[:1]]
        telemetry.OUTBOX_OLDEST.set(self._age_s(min(waiting)) if waiting else 0)
        telemetry.OUTBOX_STOPPED_KEYS.set(len(self._stopped))

    def _age_s(self, time: datetime) -> float:
        return max(0.0, (self._clock.now() - time).total_seconds())


def _record(row: sa.Row[Any]) -> Record:
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


def _links(rows: Rows) -> list[Link]:
    """Return links to the facts' own traces, as many as a span takes without cutting."""
    contexts = (
        trace.get_current_span(context_from(row.traceparent)).get_span_context()
        for row in rows
        if row.traceparent is not None and row.traceparent.endswith(_SAMPLED)
    )
    return [Link(context) for context in itertools.islice(contexts, _LINKS_MAX)]


def _is_transient(error: Exception) -> bool:
    return isinstance(error, ModelyardError) and error.retryable


def _backoff_s(failure_count: int) -> float:
    return min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2.0 ** min(failure_count - 1, 10))


def _select_unpublished(tables: ChassisTables, rows_max: int) -> sa.Select[Any]:
    """Return the statement for a batch in the order of commits, of held shards and running keys."""
    outbox = tables.outbox
    return (
        sa.select(outbox)
        .where(outbox.c.published_at.is_(None))
        .where(outbox.c.shard == sa.any_(_array("shards", sa.SmallInteger)))
        .where(outbox.c.aggregateid != sa.all_(_array("stopped", sa.Text)))
        .order_by(outbox.c.seq)
        .limit(rows_max)
    )


def _mark_held(tables: ChassisTables) -> sa.Update:
    """Return the statement that marks rows of shards that are held still, and keeps them so.

    It checks the leases and locks them as `Holding` does, all in one round trip.
    """
    outbox, lease = tables.outbox, tables.lease
    given = (
        sa.func.unnest(
            _array("names", sa.Text), _array("holders", sa.Text), _array("epochs", sa.BigInteger)
        )
        .table_valued("name", "holder", "epoch", name="given")
        .render_derived()
    )
    held = (
        sa.select(lease.c.name)
        .where(
            lease.c.name == given.c.name,
            lease.c.holder == given.c.holder,
            lease.c.epoch == given.c.epoch,
        )
        .with_for_update(read=True, key_share=True, of=lease)
        .cte("held")
    )
    return (
        sa.update(outbox)
        .where(outbox.c.seq == sa.any_(_array("seqs", sa.BigInteger)))
        .where(held.c.name == _LEASE_PREFIX + sa.cast(outbox.c.shard, sa.Text))
        .values(published_at=_DATABASE_NOW)
    )


def _array(name: str, of: type[sa.types.TypeEngine[Any]]) -> sa.BindParameter[Any]:
    """Return one parameter for any number of values, so that the statement is prepared once."""
    return sa.bindparam(name, type_=postgresql.ARRAY(of))
