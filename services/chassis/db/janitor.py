"""Deletes what is kept only for a while.

Owns: how long published events (redrive), handled events (duplicates) and answers (repeated
requests) are remembered; a service adds rows of its own. Runs in every process: several at once
skip each other's rows.

Always holds: a pass deletes a bounded number of rows, in transactions of a bounded size.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from loguru import logger
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.db import telemetry
from services.chassis.db.engine import autocommitting, begin
from services.chassis.db.errors import database_errors
from services.chassis.db.tables import ChassisTables
from services.chassis.errors import ModelyardError
from services.chassis.waiting import is_set_within


@dataclass(frozen=True, slots=True)
class Retention:
    """How long each kind of row is kept."""

    published: timedelta = timedelta(hours=48)
    """Long enough to notice that a reader was wrong, and to send again."""
    handled: timedelta = timedelta(days=35)
    """Longer than any topic that is consumed keeps its records: an older one can't come again."""
    answered: timedelta = timedelta(hours=24)
    """What callers are promised for idempotency keys."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows of a table that go once an instant of theirs is so long past; without one they stay."""

    table: sa.Table
    since: sa.ColumnElement[object]
    kept: timedelta


class Janitor:
    """Deletes expired rows of one service's database, a bounded number at a time."""

    def __init__(
        self,
        engine: AsyncEngine,
        tables: ChassisTables,
        *,
        retention: Retention | None = None,
        others: Sequence[Kept] = (),
        interval: timedelta = timedelta(minutes=5),
        batch_rows_max: int = 2_000,
        batches_per_pass_max: int = 50,
    ) -> None:
        retention = retention or Retention()
        self._engine = autocommitting(engine)
        self._kept = (
            Kept(tables.outbox, tables.outbox.c.published_at, retention.published),
            Kept(tables.inbox, tables.inbox.c.claimed_at, retention.handled),
            Kept(tables.idempotency, tables.idempotency.c.created_at, retention.answered),
            *others,
        )
        self._interval = interval
        self._batch_rows_max = batch_rows_max
        self._batches_per_pass_max = batches_per_pass_max

    async def run(self, stopping: asyncio.Event) -> None:
        """Make a pass each `interval` until `stopping` is set; what one leaves the next takes."""
        while not stopping.is_set():
            try:
                await self.delete_expired()
            except ModelyardError as error:
                logger.warning("expired rows not deleted", error=str(error))
            await is_set_within(stopping, self._interval.total_seconds())

    async def delete_expired(self) -> int:
        """Make one pass; return how many rows went. Raises Unavailable."""
        return sum([await self._expire(rows) for rows in self._kept])

    async def _expire(self, rows: Kept) -> int:
        table = rows.table
        key = sa.tuple_(*table.primary_key.columns)
        expired = (
            sa.select(*table.primary_key.columns)
            # `now()` and not the clock, by which no index is asked: it may differ from row to row.
            .where(rows.since < sa.func.now() - rows.kept)
            .order_by(rows.since, *table.primary_key.columns)
            .limit(self._batch_rows_max)
            .with_for_update(skip_locked=True)
        )
        total = 0
        for _ in range(self._batches_per_pass_max):
            with database_errors():
                async with begin(self._engine) as connection:
                    deleted = await connection.execute(sa.delete(table).where(key.in_(expired)))
            total += deleted.rowcount
            if deleted.rowcount < self._batch_rows_max:
                break
        telemetry.ROWS_EXPIRED.labels(table.name).inc(total)
        return total
