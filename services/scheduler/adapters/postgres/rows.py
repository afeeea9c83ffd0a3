"""What all repositories of the scheduler do with rows.

Owns: descriptions as JSON documents, amounts of resources as columns, and compare-and-set by
version. Always holds: a row is written only over the version that this transaction has read, and as
its tenant's (ADR-0020).
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import Conflict
from services.scheduler.domain.jobs.job import ArrayElement
from services.scheduler.domain.resources import Resources

T = TypeVar("T")


def is_one_of(column: sa.Column[Any], name: str) -> sa.ColumnElement[bool]:
    """Compare with the array `name`, however long; each as a parameter would be 32,767 at most.

    For statements that are built once; `chassis.db.statements` has the same for given values.
    """
    return column == sa.any_(sa.bindparam(name, type_=sa.ARRAY(sa.Text)))


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


def to_element(row: sa.RowMapping) -> ArrayElement | None:
    """Return which element of an array the job in a row is, if it is one."""
    return ArrayElement(row["array_id"], row["array_index"]) if row["array_id"] else None


class VersionedRows:
    """One table within one transaction, written by compare-and-set."""

    def __init__(self, connection: AsyncConnection, update: sa.Update, *, kind: str) -> None:
        self._connection = connection
        self._update = update
        self._kind = kind
        self._read: dict[str, tuple[str, int]] = {}

    def read(self, row: sa.RowMapping) -> None:
        """Note whose row it is, and the version that this transaction decides on."""
        self._read[row["id"]] = (row["tenant"], row["version"])

    def over_what_was_read(self, identity: str) -> dict[str, Any]:
        """Return which row is written over, and which version of it."""
        tenant, version = self._read[identity]
        return {"read_id": identity, "read_tenant": tenant, "read_version": version}

    async def write(self, identity: str, values: Mapping[str, Any]) -> None:
        """Write over the version that was read; raises Conflict when there is another by now."""
        read = self.over_what_was_read(identity)
        updated = await self._connection.execute(self._update, {**read, **values})
        if updated.rowcount != 1:
            raise Conflict(self._kind, identity)
        self.wrote(identity, version=values["version"])

    def wrote(self, identity: str, *, version: int) -> None:
        """Note that this transaction has written over what it read."""
        tenant, _ = self._read[identity]
        self._read[identity] = (tenant, version)


def versioned_update(table: sa.Table) -> sa.Update:
    """Return the statement for `VersionedRows`; made once, since building it costs half a call."""
    return (
        sa.update(table)
        .where(table.c.id == sa.bindparam("read_id"))
        .where(table.c.tenant == sa.bindparam("read_tenant"))
        .where(table.c.version == sa.bindparam("read_version"))
    )
