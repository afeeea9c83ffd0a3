"""What all repositories of the scheduler do with rows.

Owns: descriptions as JSON documents, amounts of resources as columns, and compare-and-set by
version. Always holds: a row is written only over the version that this transaction has read.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import Conflict
from services.scheduler.domain.resources import Resources

T = TypeVar("T")

_TAKE_TURN: Final = sa.select(
    sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("name"), 0))
)


def to_document(value: object) -> Any:
    """Return a frozen value as what JSON can hold; absent stays absent."""
    return msgspec.to_builtins(value)


def from_document(kind: type[T], document: Any) -> T:
    """Return the value in a document; unknown fields of a newer release are passed over."""
    return msgspec.convert(document, kind)


def maybe_from_document(kind: type[T], document: Any) -> T | None:
    """Return the value in a document, or None where there is none."""
    return None if document is None else msgspec.convert(document, kind)


def from_resources(resources: Resources, *, prefix: str = "") -> dict[str, int]:
    """Return the columns of an amount."""
    return {
        f"{prefix}cpu_millicores": resources.cpu_millicores,
        f"{prefix}memory_bytes": resources.memory_bytes,
        f"{prefix}gpu_count": resources.gpu_count,
    }


def to_resources(row: sa.RowMapping, *, prefix: str = "") -> Resources:
    """Return the amount in a row."""
    return Resources(
        row[f"{prefix}cpu_millicores"], row[f"{prefix}memory_bytes"], row[f"{prefix}gpu_count"]
    )


async def take_turn(connection: AsyncConnection, name: str) -> None:
    """Wait until no other transaction holds this name, then hold it until the commit."""
    await connection.execute(_TAKE_TURN, {"name": name})


class VersionedRows:
    """One table within one transaction, written by compare-and-set."""

    def __init__(self, connection: AsyncConnection, update: sa.Update, *, kind: str) -> None:
        self._connection = connection
        self._update = update
        self._kind = kind
        self._versions: dict[str, int] = {}

    def read(self, row: sa.RowMapping) -> None:
        """Note the version that this transaction decides on."""
        self._versions[row["id"]] = row["version"]

    async def write(self, identity: str, values: Mapping[str, Any]) -> None:
        """Write over the version that was read; raises Conflict when there is another by now."""
        updated = await self._connection.execute(
            self._update,
            {"read_id": identity, "read_version": self._versions[identity], **values},
        )
        if updated.rowcount != 1:
            raise Conflict(self._kind, identity)
        self._versions[identity] = values["version"]


def versioned_update(table: sa.Table) -> sa.Update:
    """Return the statement for `VersionedRows`; made once, since building it costs half a call."""
    return (
        sa.update(table)
        .where(table.c.id == sa.bindparam("read_id"))
        .where(table.c.version == sa.bindparam("read_version"))
    )
