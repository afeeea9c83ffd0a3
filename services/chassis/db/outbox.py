"""The outbox in PostgreSQL: what is still to be sent, and what has been.

Owns: the two statements of the relay. Leaves to `relay` when they run; rows are written by the unit
of work.
"""

from collections.abc import Collection
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.db.engine import autocommitting, begin
from services.chassis.db.errors import database_errors
from services.chassis.db.lease import HeldLease
from services.chassis.db.relay import Rows
from services.chassis.db.tables import OUTBOX_LEASE_PREFIX, ChassisTables

_DATABASE_NOW: Final = sa.func.clock_timestamp()


class PostgresOutbox:
    """One service's outbox; implements `relay.Outbox`."""

    def __init__(self, engine: AsyncEngine, tables: ChassisTables) -> None:
        self._engine = autocommitting(engine)
        self._unpublished = _select_unpublished(tables)
        self._mark_held = _mark_held(tables)

    async def unpublished(
        self, shards: Collection[int], *, stopped: Collection[str], rows_max: int
    ) -> Rows:
        """Read a batch."""
        given = {"shards": list(shards), "stopped": list(stopped), "rows_max": rows_max}
        with database_errors():
            async with begin(self._engine) as connection:
                rows = (await connection.execute(self._unpublished, given)).all()
        return cast("Rows", rows)

    async def mark(self, rows: Rows, leases: Collection[HeldLease]) -> int:
        """Mark rows, unless their shard has changed hands."""
        given = {
            "seqs": [row.seq for row in rows],
            "names": [lease.name for lease in leases],
            "holders": [lease.holder for lease in leases],
            "epochs": [lease.epoch for lease in leases],
        }
        with database_errors():
            async with begin(self._engine) as connection:
                marked = await connection.execute(self._mark_held, given)
        return marked.rowcount


def _select_unpublished(tables: ChassisTables) -> sa.Select[Any]:
    """Return the statement for a batch in the order of commits, of held shards and running keys."""
    outbox = tables.outbox
    return (
        sa.select(outbox)
        .where(outbox.c.published_at.is_(None))
        .where(outbox.c.shard == sa.any_(_array("shards", sa.SmallInteger)))
        .where(outbox.c.aggregateid != sa.all_(_array("stopped", sa.Text)))
        .order_by(outbox.c.seq)
        .limit(sa.bindparam("rows_max", type_=sa.Integer))
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
        .where(held.c.name == OUTBOX_LEASE_PREFIX + sa.cast(outbox.c.shard, sa.Text))
        .values(published_at=_DATABASE_NOW)
    )


def _array(name: str, of: type[sa.types.TypeEngine[Any]]) -> sa.BindParameter[Any]:
    """Return one parameter for any number of values, so that the statement is prepared once."""
    return sa.bindparam(name, type_=postgresql.ARRAY(of))
