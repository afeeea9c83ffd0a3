"""A database server in memory, with the transactions that PostgreSQL has.

Owns: tables of immutable rows, row locks, commits of all or nothing, and the chassis' own rows:
outbox, inbox, answers, leases on the database's clock. Leaves the services' rows to
`scheduler_store` and `registry_store`. It is READ COMMITTED: a statement sees what is committed as
it runs, and what its own transaction has written; who reads a row to change it locks it.

Always holds: a transaction is on the server, so it ends there: by its commit, if that arrives; or
by its rollback, when its client goes away, asks nothing for too long, or waits for a lock too long.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar, cast

from services.chassis.clock import Clock
from services.chassis.db.errors import LeaseLost
from services.chassis.db.lease import HeldLease
from services.chassis.db.relay import Rows
from services.chassis.db.tables import OUTBOX_LEASE_PREFIX, shard_of
from services.chassis.errors import InProgress, KeyReused, Unavailable
from services.chassis.events.envelope import NewEvent
from services.chassis.events.ports import DuplicateEvent
from services.chassis.ids import Ids
from services.chassis.tenancy import TenantId
from services.chassis.transaction_mark import in_transaction
from tests.simulation.wire import Violation, Wire
from tests.support.sim_loop import outside

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)
T = TypeVar("T")

LOCK_TIMEOUT_S: Final = 4.0
IDLE_S_MAX: Final = 30.0
HOLDER_IDLE_S_MAX: Final = 5.0
"""As `PostgresSettings` and `chassis.db.lease` have them."""


@dataclass(frozen=True)
class Table(Generic[K, V_co]):
    """A table's name, with the types of its keys and rows."""

    name: str


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """Who holds a lease."""

    holder: str
    epoch: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Answer:
    """What a repeatable request was answered."""

    request_hash: bytes
    response: str


@dataclass(frozen=True, slots=True)
class EventRow:
    """A committed event; satisfies `relay.OutboxRow`."""

    seq: int
    id: str
    aggregatetype: str
    aggregateid: str
    type: str
    payload: bytes
    source: str
    subject: str
    tenant: TenantId
    dataschema: str
    traceparent: str | None
    tracestate: str | None
    time: datetime
    is_published: bool = False


LEASES: Final[Table[str, LeaseRow]] = Table("lease")
INBOX: Final[Table[tuple[str, str], datetime]] = Table("inbox")
ANSWERS: Final[Table[tuple[TenantId, str, str], Answer]] = Table("idempotency")
OUTBOX: Final[Table[int, EventRow]] = Table("outbox")
TURNS: Final[Table[str, None]] = Table("turn")
"""Advisory locks; it has no rows."""

Place = tuple[str, Hashable]


@dataclass(frozen=True, slots=True)
class Commit:
    """What a transaction has changed: rows before and after, None where there is none."""

    changes: Mapping[Place, tuple[Any, Any]]
    lease: HeldLease | None
    """The one that it was to hold."""
    began_s: float = 0.0
    """When it began: what others have committed since then it may not have seen."""

    def of(self, table: Table[K, V]) -> Iterator[tuple[K, V | None, V | None]]:
        """Yield a table's changed rows."""
        for (name, key), (before, after) in self.changes.items():
            if name == table.name:
                yield cast("K", key), before, after


class Database:
    """The server; `clock` is its own."""

    def __init__(self, name: str, clock: Clock, on_commit: Callable[["Database", Commit], None]):
        self.name = name
        self.clock = clock
        self.locks = _Locks()
        self._on_commit = on_commit
        self._rows: dict[str, dict[Hashable, Any]] = {}
        self._seq = 0

    def rows(self, table: Table[K, V]) -> Mapping[K, V]:
        """Return what is committed."""
        return cast("Mapping[K, V]", self._rows.setdefault(table.name, {}))

    def next_number(self) -> int:
        """Return the next of a sequence, which no rollback gives back."""
        self._seq += 1
        return self._seq

    def apply(
        self, changes: Mapping[Place, Any], lease: HeldLease | None, *, began_s: float = 0.0
    ) -> None:
        """Make changes visible, all at once."""
        done: dict[Place, tuple[Any, Any]] = {}
        for (name, key), row in changes.items():
            rows = self._rows.setdefault(name, {})
            done[name, key] = (rows.get(key), row)
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = row
        if done:
            self._on_commit(self, Commit(done, lease, began_s))


class ServerTransaction:
    """A transaction as the server has it."""

    def __init__(self, database: Database, wire: Wire) -> None:
        self.lease: HeldLease | None = None
        self._database = database
        self._wire = wire
        self._changes: dict[Place, Any] = {}
        self._is_open = True
        self._is_commit_sent = False
        self._is_waiting = False
        self._began_s = self._asked_at_s = self._time_s()

    def read(self, table: Table[K, V], key: K) -> V | None:
        """Return a row as this transaction sees it; of use inside of `ask` or under its lock."""
        place = (table.name, key)
        if place in self._changes:
            return cast("V | None", self._changes[place])
        return self.committed(table, key)

    def committed(self, table: Table[K, V], key: K) -> V | None:
        """Return a row as all others see it."""
        rows: Mapping[K, V] = self._database.rows(table)
        return rows.get(key)

    def all(self, table: Table[K, V]) -> list[V]:
        """Return all rows as this transaction sees them, in the order of their making."""
        own = {key: row for (name, key), row in self._changes.items() if name == table.name}
        rows = {**self._database.rows(table), **cast("dict[K, V | None]", own)}
        return [row for row in rows.values() if row is not None]

    def write(self, table: Table[K, V], key: K, row: V | None) -> None:
        """Change a row, or delete it."""
        self._changes[table.name, key] = row

    async def ask(self, query: Callable[[], T]) -> T:
        """Run a statement that locks nothing. Raises Unavailable."""

        def run() -> T:
            self._require_open()
            return query()

        return await self._wire.call(run)

    async def lock(self, table: Table[K, V], key: K, *, is_shared: bool = False) -> V | None:
        """Lock a row, if need be after waiting; return it. Raises Unavailable."""
        await self._wire.call(self._require_open)
        await self._database.locks.take((table.name, key), self, is_shared=is_shared)
        if not self._is_open:  # it was ended on its way to the lock
            self._database.locks.release(self)
        self._require_open()
        return self.read(table, key)

    def next_number(self) -> int:
        """Return the next number of the sequence, as a part of a statement."""
        return self._database.next_number()

    @property
    def database_now(self) -> datetime:
        """Return the time of the database's own clock."""
        return self._database.clock.now()

    async def number(self) -> int:
        """Return the next number of the sequence."""
        return await self.ask(self._database.next_number)

    async def commit(self) -> None:
        """End it. Raises Unavailable: it may be committed nevertheless, or later."""
        self._is_commit_sent = True

        def arrive() -> None:
            self._require_open()
            self._is_open = False
            self._database.apply(self._changes, self.lease, began_s=self._began_s)
            self._database.locks.release(self)

        await self._wire.call(arrive)

    def client_is_gone(self) -> None:
        """The connection is closed: what was not committed is rolled back.

        A commit that is on its way arrives before the end of the connection does.
        """
        if not self._is_open:
            return
        if self._is_commit_sent:
            later = asyncio.get_running_loop().call_later
            outside(lambda: later(HOLDER_IDLE_S_MAX, self.roll_back))
        else:
            self.roll_back()

    def roll_back(self) -> None:
        """End it without a trace."""
        if self._is_open:
            self._is_open = False
            self._database.locks.release(self)

    def waits(self, is_waiting: bool) -> None:
        """Note that a statement has begun to wait for a lock, or ends."""
        self._is_waiting = is_waiting
        self._asked_at_s = self._time_s()

    def idles_until_s(self) -> float:
        """Return when the server ends it, unless something is asked of it before."""
        if self._is_waiting:
            return float("inf")
        return self._asked_at_s + (HOLDER_IDLE_S_MAX if self.lease else IDLE_S_MAX)

    def _require_open(self) -> None:
        if self._is_open and self._time_s() > self.idles_until_s():
            self.roll_back()
        if not self._is_open:
            raise Unavailable("database")
        self._asked_at_s = self._time_s()

    def _time_s(self) -> float:
        return asyncio.get_running_loop().time()


class _Locks:
    """Who has locked which rows, and who waits; first come, first served."""

    def __init__(self) -> None:
        self._holders: dict[Place, dict[ServerTransaction, bool]] = {}
        self._waiting: dict[Place, list[tuple[ServerTransaction, bool, asyncio.Future[None]]]] = {}

    async def take(self, place: Place, by: ServerTransaction, *, is_shared: bool) -> None:
        """Lock, and wait for those who have; raises Unavailable when that takes too long."""
        if not self._is_free(place, by, is_shared=is_shared):
            self._require_no_ring(place, by)
            loop = asyncio.get_running_loop()
            granted: asyncio.Future[None] = loop.create_future()
            entry = (by, is_shared, granted)
            self._waiting.setdefault(place, []).append(entry)
            by.waits(True)
            self._watch_idle(place)
            try:
                async with asyncio.timeout(LOCK_TIMEOUT_S):
                    await granted
            except TimeoutError:
                raise Unavailable("database") from None
            finally:
                if entry in self._waiting.get(place, ()):
                    self._waiting[place].remove(entry)
                    by.waits(False)
            return
        self._grant(place, by, is_shared=is_shared)

    def release(self, holder: ServerTransaction) -> None:
        """Let go of all that a transaction has locked."""
        for place in [each for each, holders in self._holders.items() if holder in holders]:
            del self._holders[place][holder]
            if not self._holders[place]:
                del self._holders[place]
            self._serve(place)

    def _serve(self, place: Place) -> None:
        waiting = self._waiting.get(place, [])
        while waiting:
            by, is_shared, granted = waiting[0]
            if granted.done():
                waiting.pop(0)
                continue
            if not self._is_compatible(place, by, is_shared=is_shared):
                return
            waiting.pop(0)
            self._grant(place, by, is_shared=is_shared)
            by.waits(False)
            granted.set_result(None)

    def _grant(self, place: Place, by: ServerTransaction, *, is_shared: bool) -> None:
        holders = self._holders.setdefault(place, {})
        holders[by] = holders.get(by, True) and is_shared

    def _is_free(self, place: Place, by: ServerTransaction, *, is_shared: bool) -> bool:
        is_owner = by in self._holders.get(place, ())
        has_queue = any(not granted.done() for _, _, granted in self._waiting.get(place, ()))
        return (is_owner or not has_queue) and self._is_compatible(place, by, is_shared=is_shared)

    def _is_compatible(self, place: Place, by: ServerTransaction, *, is_shared: bool) -> bool:
        others = {tx: mode for tx, mode in self._holders.get(place, {}).items() if tx is not by}
        return all(others.values()) if is_shared else not others

    def _watch_idle(self, place: Place) -> None:
        """End a holder that asks nothing for too long, as the server does, while others wait."""
        loop = asyncio.get_running_loop()

        def look() -> None:
            if not self._waiting.get(place):
                return
            for holder in list(self._holders.get(place, ())):
                if loop.time() >= holder.idles_until_s():
                    holder.roll_back()
            if self._waiting.get(place):
                loop.call_later(1.0, look)

        outside(lambda: loop.call_later(1.0, look))

    def _require_no_ring(self, place: Place, by: ServerTransaction) -> None:
        """Rows are locked in one order, so that nobody waits for who waits for him."""
        awaited = {
            waiter: where
            for where, waiters in self._waiting.items()
            for waiter, _, granted in waiters
            if not granted.done()
        }
        seen = {by}
        ahead = [tx for tx in self._holders.get(place, ()) if tx is not by]
        while ahead:
            holder = ahead.pop()
            if holder is by:
                raise Violation(f"transactions wait for each other in a ring at {place}")
            if holder in seen:
                continue
            seen.add(holder)
            if holder in awaited:
                ahead += self._holders.get(awaited[holder], {})


def _is_held(row: LeaseRow | None, lease: HeldLease) -> bool:
    return row is not None and (row.holder, row.epoch) == (lease.holder, lease.epoch)


@dataclass(slots=True)
class Transaction:
    """A transaction as its client has it; the chassis' part of one."""

    server: ServerTransaction
    tenant: TenantId | None
    now: datetime
    emitted: list[NewEvent] = field(default_factory=list)
    after_commit: list[Callable[[], None]] = field(default_factory=list)

    async def hold(self, lease: HeldLease) -> None:
        """Begin a lease holder's transaction with this; raises LeaseLost."""
        self.server.lease = lease
        if not _is_held(await self.server.lock(LEASES, lease.name, is_shared=True), lease):
            raise LeaseLost(lease.name)

    async def seize(self, name: str, *, holder: str, unheld_for: timedelta) -> HeldLease | None:
        """Take a lease that nobody has held for so long; waits for its holder's transactions."""
        row = await self.server.lock(LEASES, name)
        if row is None or row.expires_at > self.server.database_now - unheld_for:
            return None
        seized = replace(row, holder=holder, epoch=row.epoch + 1)
        self.server.write(LEASES, name, seized)
        return HeldLease(name, holder, seized.epoch)

    async def claim_event(self, consumer: str, event_id: str) -> None:
        """Remember that the consumer has handled the event; raises DuplicateEvent."""
        if await self.server.lock(INBOX, (consumer, event_id)) is not None:
            raise DuplicateEvent(consumer, event_id)
        self.server.write(INBOX, (consumer, event_id), self.now)

    async def remember(
        self, method: str, key: str, *, tenant: TenantId, request_hash: bytes, response: str
    ) -> str | None:
        """Return what an equal earlier request was answered; else this one is."""
        place = (tenant, method, key)
        try:
            stored = await self.server.lock(ANSWERS, place)
        except Unavailable as error:
            raise InProgress from error
        if stored is None:
            self.server.write(ANSWERS, place, Answer(request_hash, response))
            return None
        if stored.request_hash != request_hash:
            raise KeyReused
        return stored.response

    def emit(self, event: NewEvent) -> None:
        """Publish an event if and only if this transaction commits."""
        self.emitted.append(event)

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Call this after the commit."""
        self.after_commit.append(callback)


class Client:
    """One process's way to a database: transactions, leases, outbox."""

    def __init__(
        self,
        database: Database,
        wire: Wire,
        *,
        source: str,
        clock: Clock,
        ids: Ids,
        transaction: type[Transaction] = Transaction,
    ) -> None:
        self.idle = asyncio.Event()
        self.idle.set()
        self._database = database
        self._wire = wire
        self._source = source
        self._clock = clock
        self._ids = ids
        self._transaction = transaction
        self._listeners: list[Callable[[], None]] = []
        self._open_count = 0

    def add_listener(self, callback: Callable[[], None]) -> None:
        """Call this after each commit that emitted events."""
        self._listeners.append(callback)

    @asynccontextmanager
    async def begin(self, tenant: TenantId | None) -> AsyncIterator[Transaction]:
        """Open a unit of work, as `chassis.db.unit_of_work` does."""
        assert not in_transaction.get(), "a unit of work is open in this task already"
        token = in_transaction.set(True)
        self._open_count += 1
        self.idle.clear()
        try:
            async with self._opened() as server:
                tx = self._transaction(server, tenant, self._clock.now())
                yield tx
                await self._write_outbox(tx)
        finally:
            in_transaction.reset(token)
            self._open_count -= 1
            if self._open_count == 0:
                self.idle.set()
        for callback in tx.after_commit:
            callback()
        if tx.emitted:
            for listener in self._listeners:
                listener()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[ServerTransaction]:
        server = ServerTransaction(self._database, self._wire)
        try:
            yield server
            await server.commit()
        finally:
            server.client_is_gone()

    async def _write_outbox(self, tx: Transaction) -> None:
        for event in tx.emitted:
            # Numbers are given before the commit, so a smaller one may become visible later.
            seq = await tx.server.number()
            row = EventRow(
                seq=seq,
                id=self._ids.new("evt"),
                aggregatetype=event.topic,
                aggregateid=event.key,
                type=event.type,
                payload=event.data,
                source=self._source,
                subject=event.subject,
                tenant=event.tenant,
                dataschema=event.dataschema,
                traceparent=event.traceparent,
                tracestate=None,
                time=tx.now,
            )
            tx.server.write(OUTBOX, seq, row)

    # The ports of chassis.db.lease and chassis.db.relay.

    async def renew(self, lease: HeldLease, *, ttl: timedelta) -> bool:
        """Let a lease last; waits for nobody but who takes it."""
        async with self._opened() as server:
            row = await server.lock(LEASES, lease.name, is_shared=True)
            if row is None or not _is_held(row, lease):
                return False
            expires_at = self._database.clock.now() + ttl
            server.write(LEASES, lease.name, replace(row, expires_at=expires_at))
        return True

    async def take(self, name: str, *, holder: str, ttl: timedelta) -> int | None:
        """Take a lease that is free; waits for its holder's transactions."""
        async with self._opened() as server:
            seen = await server.ask(lambda: server.read(LEASES, name))
            if not self._is_free(seen, holder):
                return None
            row = await server.lock(LEASES, name)
            if not self._is_free(row, holder):
                return None
            epoch = 1 if row is None else row.epoch + (row.holder != holder)
            expires_at = self._database.clock.now() + ttl
            server.write(LEASES, name, LeaseRow(holder, epoch, expires_at))
        return epoch

    async def release(self, lease: HeldLease) -> None:
        """Let a lease expire."""
        async with self._opened() as server:
            row = await server.lock(LEASES, lease.name, is_shared=True)
            if row is not None and _is_held(row, lease):
                expired = replace(row, expires_at=self._database.clock.now())
                server.write(LEASES, lease.name, expired)

    def _is_free(self, row: LeaseRow | None, holder: str) -> bool:
        return row is None or row.holder == holder or row.expires_at <= self._database.clock.now()

    async def unpublished(
        self, shards: Collection[int], *, stopped: Collection[str], rows_max: int
    ) -> Rows:
        """Return unpublished rows in the order of their numbers."""

        def query() -> Rows:
            rows = sorted(self._database.rows(OUTBOX).items())
            return [
                row
                for _, row in rows
                if not row.is_published
                and shard_of(row.aggregateid) in shards
                and row.aggregateid not in stopped
            ][:rows_max]

        return await self._wire.call(query)

    async def mark(self, rows: Rows, leases: Collection[HeldLease]) -> int:
        """Mark rows of shards that are held still."""
        held = set()
        count = 0
        async with self._opened() as server:
            for lease in sorted(leases, key=lambda lease: lease.name):
                if _is_held(await server.lock(LEASES, lease.name, is_shared=True), lease):
                    held.add(lease.name)
            for row in rows:
                event = server.read(OUTBOX, row.seq)
                assert event is not None, "the outbox is tidied long after"
                if f"{OUTBOX_LEASE_PREFIX}{shard_of(row.aggregateid)}" in held:
                    server.write(OUTBOX, row.seq, replace(event, is_published=True))
                    count += 1
        return count
