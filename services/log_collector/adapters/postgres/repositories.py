"""The repository on PostgreSQL: rows to domain values and back.

Owns: the statements. A tenant's transaction sees its tenant's rows only; none commits.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from services.chassis.db.statements import is_one_of
from services.chassis.db.unit_of_work import Transaction
from services.chassis.errors import Conflict
from services.chassis.tenancy import TenantId
from services.log_collector.adapters.postgres.tables import log_stream
from services.log_collector.domain.log_stream import (
    LogLocation,
    LogStream,
    OwnerKind,
    StreamState,
)

_STREAM: Final = log_stream.c
_STREAMS_OF_OWNER_MAX: Final = 10_000
_COLLECTED: Final = [state for state in StreamState if state.is_collected]


class PostgresLogStreams:
    """The log streams that a transaction may see."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._mine = sa.select(log_stream)
        if tx.tenant is not None:
            self._mine = self._mine.where(_STREAM.tenant == tx.tenant)

    async def find(self, attempt_id: str) -> LogStream | None:
        """Read the row and keep it until the commit."""
        rows = await self._tx.connection.execute(
            self._mine.where(_STREAM.attempt_id == attempt_id).with_for_update()
        )
        row = rows.one_or_none()
        return None if row is None else _to_stream(row)

    async def of_owner(self, owner_id: str) -> Sequence[LogStream]:
        """Read an owner's rows."""
        rows = await self._tx.connection.execute(
            self._mine.where(_STREAM.owner_id == owner_id)
            .order_by(_STREAM.attempt_number)
            .limit(_STREAMS_OF_OWNER_MAX)
        )
        return [_to_stream(row) for row in rows]

    async def collected_on(self, node_id: str | None, *, limit: int) -> Sequence[LogStream]:
        """Read the rows of a node whose state says that there are files to read."""
        query = self._mine.where(_STREAM.state.in_(_COLLECTED))
        if node_id is not None:
            query = query.where(_STREAM.node_id == node_id)
        rows = await self._tx.connection.execute(query.order_by(_STREAM.expected_at).limit(limit))
        return [_to_stream(row) for row in rows]

    async def in_state(
        self,
        state: StreamState,
        tenants: Sequence[TenantId],
        node_id: str | None,
        *,
        offset: int,
        limit: int,
    ) -> Sequence[str]:
        """Read keys of rows, in the order of the index that finds them."""
        query = (
            sa.select(_STREAM.attempt_id)
            .where(is_one_of(_STREAM.tenant, tenants), _STREAM.state == state)
            .order_by(_STREAM.tenant, _STREAM.owner_id, _STREAM.attempt_number)
        )
        if node_id is not None:
            query = query.where(_STREAM.node_id == node_id)
        return (await self._tx.connection.scalars(query.offset(offset).limit(limit))).all()

    async def delete(self, attempt_ids: Sequence[str], state: StreamState) -> int:
        """Delete rows, unless they have moved on meanwhile."""
        deleted = await self._tx.connection.execute(
            sa.delete(log_stream).where(_STREAM.attempt_id.in_(attempt_ids), _STREAM.state == state)
        )
        return deleted.rowcount

    async def next_number(self, owner_id: str) -> int:
        """Read the greatest number; a twin that takes the same one meets the constraint."""
        found = await self._tx.connection.execute(
            sa.select(sa.func.max(_STREAM.attempt_number)).where(
                _STREAM.tenant == self._tx.tenant, _STREAM.owner_id == owner_id
            )
        )
        return int(found.scalar_one() or 0) + 1

    async def add(self, stream: LogStream) -> None:
        """Insert the row. Raises Conflict."""
        inserted = await self._tx.connection.execute(
            insert(log_stream)
            .values(
                attempt_id=stream.attempt_id,
                tenant=self._tx.tenant,
                owner_kind=stream.owner_kind,
                owner_id=stream.owner_id,
                attempt_number=stream.attempt_number,
                node_id=stream.node_id,
                traceparent=stream.traceparent,
                expected_at=stream.expected_at,
                **_changing(stream),
            )
            .on_conflict_do_nothing()
        )
        if inserted.rowcount == 0:
            raise Conflict("log stream", stream.attempt_id)

    async def save(self, stream: LogStream) -> None:
        """Update what can change."""
        updated = await self._tx.connection.execute(
            sa.update(log_stream)
            .where(_STREAM.attempt_id == stream.attempt_id, _STREAM.tenant == self._tx.tenant)
            .values(_changing(stream))
        )
        assert updated.rowcount == 1, f"{stream.attempt_id} was found, so it has to be there"


def _changing(stream: LogStream) -> Mapping[str, Any]:
    location = stream.location
    return {
        "state": stream.state,
        "location_format": location and location.format,
        "location_path": location and location.path,
        "record_count": stream.record_count,
        "opened_at": stream.opened_at,
        "ended_at": stream.ended_at,
        "is_end_seen": stream.is_end_seen,
        "completed_at": stream.completed_at,
    }


def _to_stream(row: sa.Row[Any]) -> LogStream:
    return LogStream(
        attempt_id=row.attempt_id,
        tenant=TenantId(row.tenant),
        owner_kind=OwnerKind(row.owner_kind),
        owner_id=row.owner_id,
        attempt_number=row.attempt_number,
        node_id=row.node_id,
        state=StreamState(row.state),
        expected_at=row.expected_at,
        location=(
            None
            if row.location_path is None
            else LogLocation(format=row.location_format, path=row.location_path)
        ),
        traceparent=row.traceparent,
        opened_at=row.opened_at,
        ended_at=row.ended_at,
        is_end_seen=row.is_end_seen,
        completed_at=row.completed_at,
        record_count=row.record_count,
    )
