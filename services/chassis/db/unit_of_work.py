"""One use case, one transaction.

Owns: when a transaction begins, commits and rolls back; that events leave with it (outbox rows are
written as its last statement) and that a handled event is remembered with it (inbox). Services
wrap it: their own transaction object exposes repositories and is made from this one.

Always holds: the block commits on a clean exit and rolls back on any other; a unit of work never
opens inside another of the same task; nothing remote is awaited inside (`transaction_mark`, which
RPC clients check).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from opentelemetry import trace
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.chassis.breaker import Breaker
from services.chassis.clock import Clock
from services.chassis.db.engine import autocommitting, begin
from services.chassis.db.errors import database_errors, is_outage
from services.chassis.db.lease import HeldLease, Holding
from services.chassis.db.tables import ChassisTables, shard_of
from services.chassis.errors import PayloadTooLarge
from services.chassis.events.envelope import NewEvent
from services.chassis.events.ports import DuplicateEvent
from services.chassis.ids import Ids
from services.chassis.telemetry.tracing import current_traceparent, tracer
from services.chassis.tenancy import TenantId
from services.chassis.transaction_mark import in_transaction

EVENT_BYTES_MAX: Final = 900_000
"""Below what a topic takes with key and headers, so that no committed event is refused there."""
EVENTS_MAX: Final = 10_000
"""Events of one transaction; a use case that needs more works in several."""


@dataclass(slots=True)
class Transaction:
    """An open transaction; its repositories and helpers live no longer than its block.

    `tenant` is None in system work. `now` is this process's clock, read once as the block began, so
    that everything one unit of work stamps agrees; instants that machines compare (leases,
    heartbeats) are taken from the database instead.
    """

    connection: AsyncConnection
    tables: ChassisTables
    holding: Holding
    tenant: TenantId | None
    now: datetime
    emitted: list[tuple[NewEvent, str | None]] = field(default_factory=list)
    after_commit: list[Callable[[], None]] = field(default_factory=list)

    def emit(self, event: NewEvent) -> None:
        """Publish a fact if and only if this transaction commits.

        Without a `traceparent` of its own the event becomes a child of the current span. Events
        of one key leave in the order of commits as long as their writers hold that aggregate's row.
        Raises PayloadTooLarge.
        """
        if len(event.data) > EVENT_BYTES_MAX:
            raise PayloadTooLarge("event", bytes_max=EVENT_BYTES_MAX)
        assert len(self.emitted) < EVENTS_MAX, "a unit of work emits a bounded number of events"
        self.emitted.append((event, event.traceparent or current_traceparent()))

    async def claim_event(self, consumer: str, event_id: str) -> None:
        """Remember with this transaction that the consumer has handled the event.

        Raises DuplicateEvent when it has before. Waits for a twin that is handling it right now.
        """
        inbox = self.tables.inbox
        claimed = await self.connection.execute(
            insert(inbox)
            .values(consumer=consumer, event_id=event_id, claimed_at=self.now)
            .on_conflict_do_nothing()
        )
        if claimed.rowcount == 0:
            raise DuplicateEvent(consumer, event_id)

    async def hold(self, lease: HeldLease) -> None:
        """Begin a lease holder's transaction with this; raises LeaseLost when it is over."""
        await self.holding(self.connection, lease)

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Call this after the commit, and not at all if there is none; it must not raise."""
        self.after_commit.append(callback)


class PostgresUnitOfWork:
    """Opens transactions on one service's database.

    `source` is the service's `ce_source`. Raises Unavailable out of the block while the database is
    down (at once when the breaker is open), TransactionAborted after a deadlock.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        tables: ChassisTables,
        *,
        source: str,
        clock: Clock,
        ids: Ids,
        breaker: Breaker | None = None,
        read_timeout: timedelta = timedelta(seconds=4),
    ) -> None:
        self._read_timeout_s = read_timeout.total_seconds()
        self._engine = engine
        self._autocommitting = autocommitting(engine)
        self._tables = tables
        self._holding = Holding(tables)
        self._source = source
        self._clock = clock
        self._ids = ids
        self._breaker = breaker or database_breaker()
        self._listeners: list[Callable[[], None]] = []
        self._open_count = 0
        self.idle = asyncio.Event()
        """Set while no transaction is open here: whoever can wait goes after them."""
        self.idle.set()

    def add_listener(self, callback: Callable[[], None]) -> None:
        """Call this after every commit that emitted events (`Relay.wake`); it must not raise."""
        self._listeners.append(callback)

    @asynccontextmanager
    async def __call__(self, tenant: TenantId) -> AsyncIterator[Transaction]:
        """Open a unit of work for one tenant."""
        async with self._open(tenant, because="") as tx:
            yield tx

    @asynccontextmanager
    async def system(self, *, because: str) -> AsyncIterator[Transaction]:
        """Open a unit of work that is no tenant's; the reason is on its span, if it has one."""
        async with self._open(None, because=because) as tx:
            yield tx

    @asynccontextmanager
    async def reading(self, *, because: str) -> AsyncIterator[AsyncConnection]:
        """Open for reads that each stand alone: one round trip each, where a transaction has three.

        No tenant's, as `system`. The block has `read_timeout`, then it is left with Unavailable: a
        request waits for it, and a server that is frozen answers nobody.
        """
        with _marked(), _span(because), database_errors(), self._breaker.calling():
            async with (
                asyncio.timeout(self._read_timeout_s),
                begin(self._autocommitting) as connection,
            ):
                yield connection

    async def ping(self) -> None:
        """Return when the database answers; raises Unavailable."""
        async with self.reading(because="readiness") as connection:
            await connection.execute(sa.select(1))

    @asynccontextmanager
    async def _open(self, tenant: TenantId | None, *, because: str) -> AsyncIterator[Transaction]:
        with (
            _marked(),
            _span(because),
            self._counted(),
            database_errors(),
            self._breaker.calling(),
        ):
            async with begin(self._engine) as connection:
                tx = Transaction(connection, self._tables, self._holding, tenant, self._clock.now())
                yield tx
                await self._write_outbox(tx)
        for callback in tx.after_commit:
            callback()
        if tx.emitted:
            for listener in self._listeners:
                listener()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._open_count += 1
        self.idle.clear()
        try:
            yield
        finally:
            self._open_count -= 1
            if self._open_count == 0:
                self.idle.set()

    async def _write_outbox(self, tx: Transaction) -> None:
        """Number the events as late as possible: after the rows that they tell of are locked."""
        if not tx.emitted:
            return
        await tx.connection.execute(
            self._tables.outbox.insert(),
            [
                {
                    "id": self._ids.new("evt"),
                    "shard": shard_of(event.key),
                    "aggregatetype": event.topic,
                    "aggregateid": event.key,
                    "type": event.type,
                    "payload": event.data,
                    "source": self._source,
                    "subject": event.subject,
                    "tenant": event.tenant,
                    "dataschema": event.dataschema,
                    "traceparent": traceparent,
                    "time": tx.now,
                }
                for event, traceparent in tx.emitted
            ],
        )


def _span(because: str) -> AbstractContextManager[object]:
    """Show the transaction in the trace that it is part of.

    Loops that find nothing to do are part of none: they would fill the trace store with lone spans.
    """
    if not trace.get_current_span().is_recording():
        return nullcontext()
    return tracer(__name__).start_as_current_span(
        "transaction", attributes={"modelyard.system.because": because} if because else None
    )


@contextmanager
def _marked() -> Iterator[None]:
    assert not in_transaction.get(), "a unit of work is open in this task already"
    token = in_transaction.set(True)
    try:
        yield
    finally:
        in_transaction.reset(token)


def database_breaker() -> Breaker:
    """Return a breaker for a database edge: five outages in ten seconds open it for two."""
    return Breaker(
        "database",
        failure_count_max=5,
        window=timedelta(seconds=10),
        reset_after=timedelta(seconds=2),
        counts=is_outage,
    )
