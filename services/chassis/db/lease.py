"""Who may act on a thing that only one process may act on.

Owns: taking, renewing, giving back and checking a row of the lease table, and when its holder does
again what it began with. What keeps a lease decides by `Leases` alone, of which PostgreSQL's is the
one that services run on; simulations give another (ADR-0025).

Who could act late: a holder that was paused, or cut off from the database. What refuses it:
every transaction of a holder begins with `Holding`, which locks the lease's row until its commit
and aborts unless epoch and holder are its own; a new holder waits for that lock. Outside of
transactions the holder stops by itself: `is_held()` turns false `margin` before the lease could run
out, counted by the monotonic clock from when the last renewal was *sent*.

Renewals change no key column and holders lock FOR KEY SHARE, so that a holder busy with
transactions never keeps itself from renewing; a new holder takes the row FOR UPDATE, which waits
for both.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

import sqlalchemy as sa
from loguru import logger
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.chassis.clock import Clock
from services.chassis.db.engine import autocommitting, begin
from services.chassis.db.errors import LeaseLost, database_errors
from services.chassis.db.tables import ChassisTables
from services.chassis.errors import ModelyardError
from services.chassis.waiting import is_set_within

_RENEWALS_PER_TTL: Final = 3
_MARGIN_SHARE: Final = 0.2
_DATABASE_NOW: Final = sa.func.clock_timestamp()
_HOLDER_IDLE_MS_MAX: Final = 5_000
_LETS_GO: Final = sa.func.set_config(
    "idle_in_transaction_session_timeout", str(_HOLDER_IDLE_MS_MAX), True
)
"""A holder that is paused inside a transaction keeps its heir waiting no longer than that."""


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease as its holder knows it; a greater epoch elsewhere means that it is over."""

    name: str
    holder: str
    epoch: int


class Holding:
    """Begins the transactions of lease holders; its statement is built once, as each is short."""

    def __init__(self, tables: ChassisTables) -> None:
        row = tables.lease
        self._statement = (
            sa.select(row.c.epoch, _LETS_GO)
            .where(
                row.c.name == sa.bindparam("name"),
                row.c.holder == sa.bindparam("holder"),
                row.c.epoch == sa.bindparam("epoch"),
            )
            .with_for_update(read=True, key_share=True)
        )

    async def __call__(self, connection: AsyncConnection, lease: HeldLease) -> None:
        """Keep a lease from changing hands until this transaction ends.

        Raises LeaseLost when it has changed hands already.
        """
        given = {"name": lease.name, "holder": lease.holder, "epoch": lease.epoch}
        if await connection.scalar(self._statement, given) is None:
            raise LeaseLost(lease.name)


class Seizing:
    """Takes leases that nobody has held for a while, inside of a transaction."""

    def __init__(self, tables: ChassisTables) -> None:
        row = tables.lease
        unheld_for = sa.bindparam("unheld_for", type_=sa.Interval)
        # FOR UPDATE, as everybody takes a lease: it waits for transactions of its last holder.
        self._lock = (
            sa.select(row.c.epoch)
            .where(
                row.c.name == sa.bindparam("seized_name"),
                row.c.expires_at <= _DATABASE_NOW - unheld_for,
            )
            .with_for_update()
        )
        self._update = (
            sa.update(row)
            .where(row.c.name == sa.bindparam("seized_name"))
            .values(holder=sa.bindparam("holder"), epoch=sa.bindparam("epoch"))
        )

    async def __call__(
        self, connection: AsyncConnection, name: str, *, holder: str, unheld_for: timedelta
    ) -> HeldLease | None:
        """Become a lease's next holder, with the commit; None unless it was unheld for so long.

        It stays expired: it can be held in transactions, until anybody takes it, and says as before
        since when nobody renews it.
        """
        given = {"seized_name": name, "unheld_for": unheld_for}
        epoch: int | None = await connection.scalar(self._lock, given)
        if epoch is None:
            return None
        seized = HeldLease(name, holder, epoch + 1)
        await connection.execute(
            self._update, {"seized_name": name, "holder": holder, "epoch": seized.epoch}
        )
        return seized


def _is(row: sa.Table, lease: HeldLease) -> sa.ColumnElement[bool]:
    return sa.and_(
        row.c.name == lease.name, row.c.holder == lease.holder, row.c.epoch == lease.epoch
    )


class Recurrence:
    """When a lease's holder does what is due as it begins to hold, and each `interval` after."""

    def __init__(self, interval: timedelta, clock: Clock) -> None:
        self._interval_s = interval.total_seconds()
        self._clock = clock
        self._done_epoch: int | None = None
        self._done_at_s = 0.0

    def is_due(self, held: HeldLease) -> bool:
        """Tell whether it is time."""
        since_s = self._clock.monotonic() - self._done_at_s
        return held.epoch != self._done_epoch or since_s >= self._interval_s

    def done(self, held: HeldLease) -> None:
        """Note that it was done just now; what failed stays due."""
        self._done_epoch, self._done_at_s = held.epoch, self._clock.monotonic()

    def bring_forward(self) -> None:
        """Be due from now on, until it is done."""
        self._done_epoch = None


class Leases(Protocol):
    """The rows of the lease table, whose expiry the database sets and compares by its own clock."""

    async def renew(self, lease: HeldLease, *, ttl: timedelta) -> bool:
        """Let a lease last from now on; False when it has changed hands. Raises Unavailable."""
        ...

    async def take(self, name: str, *, holder: str, ttl: timedelta) -> int | None:
        """Return the epoch under which the holder has it from now on; None while another has it.

        Waits for transactions that the former holder began. Raises Unavailable.
        """
        ...

    async def release(self, lease: HeldLease) -> None:
        """Let a lease expire, if it has not changed hands. Raises Unavailable."""
        ...


class PostgresLeases:
    """The lease table of one service's database; implements `Leases`."""

    def __init__(self, engine: AsyncEngine, tables: ChassisTables) -> None:
        self._engine = engine
        self._autocommitting = autocommitting(engine)
        self._row = row = tables.lease
        # Built once: that cost a third of each renewal, and every process renews all the time.
        self._renewal = (
            sa.update(row)
            .where(row.c.name == sa.bindparam("held_name"))
            .where(row.c.holder == sa.bindparam("held_holder"))
            .where(row.c.epoch == sa.bindparam("held_epoch"))
            .values(expires_at=_DATABASE_NOW + sa.bindparam("ttl", type_=sa.Interval))
            .returning(row.c.epoch)
        )

    async def renew(self, lease: HeldLease, *, ttl: timedelta) -> bool:
        """Renew without touching a key column."""
        with database_errors():
            async with begin(self._autocommitting) as connection:
                given = {
                    "held_name": lease.name,
                    "held_holder": lease.holder,
                    "held_epoch": lease.epoch,
                    "ttl": ttl,
                }
                epoch: int | None = await connection.scalar(self._renewal, given)
        return epoch is not None

    async def take(self, name: str, *, holder: str, ttl: timedelta) -> int | None:
        """Take the row by a change of key, which waits for all who hold the lease."""
        row = self._row
        ours = {"holder": holder, "expires_at": _expiry(ttl)}
        with database_errors():
            async with begin(self._engine) as connection:
                old = await connection.execute(
                    sa.select(row.c.holder, row.c.epoch)
                    .where(row.c.name == name)
                    .where((row.c.holder == holder) | (row.c.expires_at <= _DATABASE_NOW))
                    .with_for_update()
                )
                free = old.one_or_none()
                if free is None:  # held by another, or the very first holder of this name
                    first: int | None = await connection.scalar(
                        insert(row)
                        .values(name=name, epoch=1, **ours)
                        .on_conflict_do_nothing()
                        .returning(row.c.epoch)
                    )
                    return first
                epoch = free.epoch if free.holder == holder else free.epoch + 1
                await connection.execute(
                    sa.update(row).where(row.c.name == name).values(epoch=epoch, **ours)
                )
                return int(epoch)

    async def release(self, lease: HeldLease) -> None:
        """Let the row expire."""
        with database_errors():
            async with begin(self._autocommitting) as connection:
                await connection.execute(
                    sa.update(self._row)
                    .where(_is(self._row, lease))
                    .values(expires_at=_DATABASE_NOW)
                )

    async def release_all(self, holder: str) -> int:
        """Let all leases of a holder expire that will act no more; return how many it had."""
        row = self._row
        with database_errors():
            async with begin(self._autocommitting) as connection:
                released = await connection.execute(
                    sa.update(row)
                    .where(row.c.holder == holder, row.c.expires_at > _DATABASE_NOW)
                    .values(expires_at=_DATABASE_NOW)
                )
        return released.rowcount


def _expiry(ttl: timedelta) -> sa.ColumnElement[object]:
    return _DATABASE_NOW + ttl


class LeaseKeeper:
    """Keeps one lease for one process incarnation, for as long as it can.

    `holder` is one process start (a fresh id), never a host name: a restarted process is another
    holder and gets another epoch.
    """

    def __init__(
        self, leases: Leases, name: str, *, holder: str, ttl: timedelta, clock: Clock
    ) -> None:
        self.name = name
        self._leases = leases
        self._holder = holder
        self._ttl = ttl
        self._clock = clock
        self._held: HeldLease | None = None
        self._acts_until = 0.0
        self._answered_at = clock.monotonic()
        self._taken = asyncio.Event()

    @property
    def held(self) -> HeldLease | None:
        """Return the lease while this process may act on it, None otherwise."""
        return self._held if self.is_held() else None

    def is_held(self) -> bool:
        """Tell whether this process may still act, by its own monotonic clock."""
        return self._held is not None and self._clock.monotonic() < self._acts_until

    @property
    def unanswered_for(self) -> timedelta:
        """Return how long ago the last question was sent whose answer came; at first, since when.

        Until then somebody held it, this process or another, as far as can be known here.
        """
        return timedelta(seconds=self._clock.monotonic() - self._answered_at)

    async def wait_held(self) -> HeldLease:
        """Return the lease once this process may act on it."""
        while (held := self.held) is None:
            self._taken.clear()
            await self._taken.wait()
        return held

    async def acquire(self) -> HeldLease | None:
        """Take the lease if it is free or expired, renew it if it is ours; None if another has it.

        Raises Unavailable while the database is down; what was held stays held until its time.
        """
        sent_at = self._clock.monotonic()
        epoch = await self._renewed() or await self._leases.take(
            self.name, holder=self._holder, ttl=self._ttl
        )
        self._answered_at = sent_at
        if epoch is None:
            self._held = None
            return None
        margin = _MARGIN_SHARE * self._ttl.total_seconds()
        self._acts_until = sent_at + self._ttl.total_seconds() - margin
        self._held = HeldLease(self.name, self._holder, epoch)
        self._taken.set()
        return self._held

    async def release(self) -> None:
        """Give the lease back at once; transactions that hold its row still end first."""
        held, self._held = self._held, None
        if held is not None:
            await self._leases.release(held)

    async def run(self, stopping: asyncio.Event) -> None:
        """Take the lease, renew it until `stopping` is set, then give it back."""
        interval_s = self._ttl.total_seconds() / _RENEWALS_PER_TTL
        while not stopping.is_set():
            was_held = self.is_held()
            try:
                async with asyncio.timeout(interval_s):
                    await self.acquire()
            except (ModelyardError, TimeoutError) as error:
                logger.warning("lease not renewed", lease=self.name, error=str(error))
            self._report(was_held)
            await is_set_within(stopping, interval_s)
        try:
            async with asyncio.timeout(interval_s):
                await self.release()
        except (ModelyardError, TimeoutError) as error:
            logger.warning("lease not released", lease=self.name, error=str(error))

    def _report(self, was_held: bool) -> None:
        if self.is_held() and not was_held:
            logger.info("lease taken", lease=self.name, holder=self._holder)
        elif was_held and not self.is_held():
            logger.warning("lease lost", lease=self.name, holder=self._holder)

    async def _renewed(self) -> int | None:
        """Renew what is held; None if nothing is, or it is no longer ours."""
        held = self._held
        if held is None or not await self._leases.renew(held, ttl=self._ttl):
            return None
        return held.epoch
