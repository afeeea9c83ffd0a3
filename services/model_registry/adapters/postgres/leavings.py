"""What tenants leave in PostgreSQL, deleted a bounded number of rows at a time.

Rows that somebody has locked are passed over: no transaction waits here, but for a digest's turn.
In order of tenants first, whose indexes are what makes a pass that finds nothing a look-up.
"""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from services.chassis.db.statements import is_one_of, take_turn
from services.chassis.db.unit_of_work import Transaction
from services.chassis.tenancy import TenantId
from services.model_registry.adapters.postgres import tables
from services.model_registry.domain.artifact import Digest

_MODEL: Final = tables.model.c
_VERSION: Final = tables.model_version.c
_ARTIFACT: Final = tables.artifact.c


class PostgresLeavings:
    """What is to be deleted of tenants; implements `ports.Leavings`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    async def delete_versions(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete versions."""
        return await self._delete(tables.model_version, tenants, limit)

    async def delete_models(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete models without versions; once they are locked they get no other."""
        some = _some(tables.model, tenants, limit).where(
            ~sa.exists().where(_VERSION.model_id == _MODEL.id)
        )
        ids = (await self._tx.connection.scalars(some)).all()
        deleted = await self._tx.connection.execute(
            sa.delete(tables.model).where(
                _MODEL.id.in_(ids), ~sa.exists().where(_VERSION.model_id == _MODEL.id)
            )
        )
        return deleted.rowcount

    async def delete_answers(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete answers to repeatable requests."""
        return await self._delete(tables.chassis.idempotency, tenants, limit)

    async def digests(
        self, tenants: Sequence[TenantId], *, offset: int, limit: int
    ) -> Sequence[Digest]:
        """Return the digest of each artifact of theirs, but for the first `offset`."""
        found = await self._tx.connection.scalars(
            sa.select(_ARTIFACT.digest)
            .where(is_one_of(_ARTIFACT.tenant, tenants))
            .order_by(_ARTIFACT.tenant, _ARTIFACT.digest)
            .offset(offset)
            .limit(limit)
        )
        return [Digest(digest) for digest in found]

    async def delete_artifacts(self, tenants: Sequence[TenantId], digest: Digest) -> bool:
        """Delete their rows of a digest, alone; tell whether another is left."""
        await take_turn(self._tx.connection, digest)
        await self._tx.connection.execute(
            sa.delete(tables.artifact).where(
                is_one_of(_ARTIFACT.tenant, tenants), _ARTIFACT.digest == digest
            )
        )
        left = await self._tx.connection.execute(
            sa.select(sa.exists().where(_ARTIFACT.digest == digest))
        )
        return bool(left.scalar_one())

    async def _delete(self, table: sa.Table, tenants: Sequence[TenantId], limit: int) -> int:
        key = sa.tuple_(*table.primary_key.columns)
        deleted = await self._tx.connection.execute(
            sa.delete(table).where(key.in_(_some(table, tenants, limit)))
        )
        return deleted.rowcount


def _some(table: sa.Table, tenants: Sequence[TenantId], limit: int) -> sa.Select[Any]:
    return (
        sa.select(*table.primary_key.columns)
        .where(is_one_of(table.c.tenant, tenants))
        .order_by(table.c.tenant, *table.primary_key.columns)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
