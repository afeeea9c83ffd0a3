"""Pieces of SQL that several services' repositories need."""

from collections.abc import Collection
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

_GIVEN: Final = (
    sa.func.unnest(sa.bindparam("names", type_=sa.ARRAY(sa.Text)))
    .table_valued("name", name="given")
    .render_derived()
)
_TAKE_TURNS: Final = sa.select(
    sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(_GIVEN.c.name, 0))
)


async def take_turn(connection: AsyncConnection, name: str) -> None:
    """Wait until no other transaction holds this name, then hold it until the commit."""
    await take_turns(connection, [name])


async def take_turns(connection: AsyncConnection, names: Collection[str]) -> None:
    """Take the turn of each name, in one order for everybody: nobody waits in a ring."""
    await connection.execute(_TAKE_TURNS, {"names": sorted(names)})


def is_one_of(column: sa.ColumnElement[Any], texts: Collection[str]) -> sa.ColumnElement[bool]:
    """Compare with one array, however long, instead of one parameter each."""
    return column == sa.any_(sa.cast(list(texts), sa.ARRAY(sa.Text)))
