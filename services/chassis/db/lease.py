"""Who may act on a thing that only one process may act on.

Owns: taking, renewing, giving back and checking a row of the lease table, and when its holder does
again what it began with.

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
from typing import Final

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


class LeaseKeeper:
    """Keeps one lease for one process incarnation, for as long as it can.

    `holder` is one process start (a fresh id), never a host name: a restarted process is another
    holder and gets another epoch.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        tables: ChassisTables,
        name: str,
        *,
        holder: str,
        ttl: timedelta,
        clock: Clock,
    ) -> None:
        self.name = name
        self._engine = engine
        self._autocommitting = autocommitting(engine)
        self._row = tables.lease
        self._holder = holder
        self._ttl = ttl
        self._clock = clock
        self._held: HeldLease | None = None
        self._acts_until = 0.0
        self._taken = asyncio.Event()

    @property
    def held(self) -> HeldLease | None:
        """Return the lease while this process may act on it, None otherwise."""
        return self._held if self.is_held() else None

    def is_held(self) -> bool:
        """Tell whether this process may still act, by its own monotonic clock."""
        return self._held is not None and self._clock.monotonic() < self._acts_until

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
        with database_errors():
            epoch = await self._renewed() or await self._took()
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
        if held is None:
            return
        with database_errors():
            async with begin(self._autocommitting) as connection:
                await connection.execute(
                    sa.update(self._row)
                    .where(_is(self._row, held))
                    .values(expires_at=_DATABASE_NOW)
                )

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
        """Renew what is held, without touching a key column; None if it is no longer ours."""
        if self._held is None:
            return None
        async with begin(self._autocommitting) as connection:
            epoch: int | None = await connection.scalar(
                sa.update(self._row)
                .where(_is(self._row, self._held))
                .values(expires_at=self._expiry())
                .returning(self._row.c.epoch)
            )
        return epoch

    async def _took(self) -> int | None:
        """Take the lease if nobody has it; waits for transactions that the old holder began."""
        row = self._row
        ours = {"holder": self._holder, "expires_at": self._expiry()}
        async with begin(self._engine) as connection:
            old = await connection.execute(
                sa.select(row.c.holder, row.c.epoch)
                .where(row.c.name == self.name)
                .where((row.c.holder == self._holder) | (row.c.expires_at <= _DATABASE_NOW))
                .with_for_update()
            )
            free = old.one_or_none()
            if free is None:  # held by another, or the very first holder of this name
                first: int | None = await connection.scalar(
                    insert(row)
                    .values(name=self.name, epoch=1, **ours)
                    .on_conflict_do_nothing()
                    .returning(row.c.epoch)
                )
                return first
            # By FOR UPDATE above this is a change of key, which waits for all who hold the lease.
            epoch = free.epoch if free.holder == self._holder else free.epoch + 1
            await connection.execute(
                sa.update(row).where(row.c.name == self.name).values(epoch=epoch, **ours)
            )
            return int(epoch)

    def _expiry(self) -> sa.ColumnElement[object]:
        return _DATABASE_NOW + self._ttl
