"""Pieces of SQL that several services' repositories need."""

from collections.abc import Collection
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

_TAKE_TURN: Final = sa.select(
    sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("name"), 0))
)


async def take_turn(connection: AsyncConnection, name: str) -> None:
    """Wait until no other transaction holds this name, then hold it until the commit."""
    await connection.execute(_TAKE_TURN, {"name": name})


def is_one_of(column: sa.ColumnElement[Any], texts: Collection[str]) -> sa.ColumnElement[bool]:
    """Compare with one array, however long, instead of one parameter each."""
    return column == sa.any_(sa.cast(list(texts), sa.ARRAY(sa.Text)))
