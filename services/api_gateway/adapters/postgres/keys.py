"""Keys as rows; every query of a `Keys` is its tenant's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Interval,
    RowMapping,
    Text,
    bindparam,
    func,
    insert,
    literal,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api_gateway.adapters.postgres.tables import api_key_table
from services.api_gateway.domain.api_key import ApiKey, KeyPlace
from services.api_gateway.domain.member import Person
from services.api_gateway.domain.roles import stored_role
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.errors import NotFound
from services.chassis.tenancy import TenantId

_FIND: Final = select(api_key_table).where(api_key_table.c.id == bindparam("key_id"))
_WRITE_USES: Final = text(
    """
    WITH used AS (
        SELECT api_key.id, noted.used_at
        FROM unnest(:ids, :instants) AS noted(id, used_at)
        JOIN api_key ON api_key.id = noted.id
        WHERE api_key.last_used_at IS NULL
           OR api_key.last_used_at + :again_after <= noted.used_at
        ORDER BY api_key.id
        FOR NO KEY UPDATE OF api_key
    )
    UPDATE api_key SET last_used_at = used.used_at FROM used WHERE api_key.id = used.id
    """
).bindparams(
    bindparam("ids", type_=ARRAY(Text)),
    bindparam("instants", type_=ARRAY(DateTime(timezone=True))),
    bindparam("again_after", type_=Interval),
)


@dataclass(frozen=True, slots=True)
class Keys:
    """One tenant's keys, in one transaction."""

    connection: AsyncConnection
    tenant: TenantId

    async def add(self, key: ApiKey) -> None:
        """Insert a key."""
        assert key.tenant == self.tenant
        await self.connection.execute(insert(api_key_table).values(**to_row(key)))

    async def locked(self, key_id: str) -> ApiKey:
        """Return a key and hold its row; raises NotFound."""
        found = await self.connection.execute(
            select(api_key_table)
            .where(api_key_table.c.tenant == self.tenant, api_key_table.c.id == key_id)
            .with_for_update()
        )
        row = found.mappings().one_or_none()
        if row is None:
            raise NotFound("api key", key_id)
        return from_row(row)

    async def save_rotated(self, key: ApiKey) -> None:
        """Update the end and the successor of a key that `locked` returned."""
        await self.connection.execute(
            update(api_key_table)
            .where(api_key_table.c.tenant == self.tenant, api_key_table.c.id == key.id)
            .values(expires_at=key.expires_at, replaced_by=key.replaced_by)
        )

    async def find(self, key_id: str) -> ApiKey | None:
        """Return a key, or None."""
        found = await self.connection.execute(
            select(api_key_table).where(
                api_key_table.c.tenant == self.tenant, api_key_table.c.id == key_id
            )
        )
        row = found.mappings().one_or_none()
        return None if row is None else from_row(row)

    async def count_in_force(self, *, at: datetime) -> int:
        """Count the rows."""
        query = select(func.count()).select_from(api_key_table)
        found = await self.connection.execute(
            query.where(api_key_table.c.tenant == self.tenant, _is_in_force(at))
        )
        return int(found.scalar_one())

    async def list(self, *, after: KeyPlace | None, at: datetime, limit: int) -> Sequence[ApiKey]:
        """Return keys by their places, which are rows of two columns here."""
        is_in_force, key_id = _is_in_force(at), api_key_table.c.id
        query = (
            select(api_key_table)
            .where(api_key_table.c.tenant == self.tenant)
            .order_by(is_in_force.desc(), key_id.desc())
            .limit(limit)
        )
        if after is not None:
            place = tuple_(literal(after.is_in_force), literal(after.key_id))
            query = query.where(tuple_(is_in_force, key_id) < place)
        found = await self.connection.execute(query)
        return [from_row(row) for row in found.mappings()]

    async def revoke(self, key_id: str, *, at: datetime) -> None:
        """Set `revoked_at` unless it is set; raises NotFound."""
        changed = await self.connection.execute(
            update(api_key_table)
            .where(api_key_table.c.tenant == self.tenant, api_key_table.c.id == key_id)
            .values(revoked_at=func.coalesce(api_key_table.c.revoked_at, at))
        )
        if changed.rowcount == 0:
            raise NotFound("api key", key_id)

    async def in_force_of(self, person: Person, *, at: datetime) -> Sequence[ApiKey]:
        """Lock the rows in the order of their ids, as `write_uses` does."""
        found = await self.connection.execute(
            select(api_key_table)
            .where(
                api_key_table.c.tenant == self.tenant,
                api_key_table.c.person_issuer == person.issuer,
                api_key_table.c.person_subject == person.subject,
                _is_in_force(at),
            )
            .order_by(api_key_table.c.id)
            .with_for_update()
        )
        return [from_row(row) for row in found.mappings()]

    async def revoke_all(self, key_ids: Sequence[str], *, at: datetime) -> None:
        """Set `revoked_at` of rows that `in_force_of` has locked."""
        await self.connection.execute(
            update(api_key_table)
            .where(api_key_table.c.tenant == self.tenant, api_key_table.c.id.in_(key_ids))
            .values(revoked_at=at)
        )


@dataclass(frozen=True, slots=True)
class PostgresDirectory:
    """Reads keys across tenants: authentication finds out whose a key is."""

    base: PostgresUnitOfWork

    async def find_key(self, key_id: str) -> ApiKey | None:
        """Return the key with this id, or None."""
        async with self.base.reading(because="authentication finds a key's tenant") as connection:
            found = await connection.execute(_FIND, {"key_id": key_id})
            row = found.mappings().one_or_none()
        return None if row is None else from_row(row)

    async def write_uses(self, uses: Mapping[str, datetime], *, again_after: timedelta) -> None:
        """Update the rows in the order of their ids, so that two gateways never wait in a ring."""
        async with self.base.system(because="uses of keys span tenants") as tx:
            await tx.connection.execute(
                _WRITE_USES,
                {
                    "ids": list(uses),
                    "instants": list(uses.values()),
                    "again_after": again_after,
                },
            )


def _is_in_force(at: datetime) -> ColumnElement[bool]:
    """Say `ApiKey.is_in_force` in SQL; never NULL, so that keys are ordered by it."""
    columns = api_key_table.c
    return columns.revoked_at.is_(None) & (columns.expires_at.is_(None) | (columns.expires_at > at))


def to_row(key: ApiKey) -> dict[str, Any]:
    """Return the row of a key."""
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "secret_digest": key.secret_digest,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "role": key.role,
        "last_used_at": key.last_used_at,
        "replaced_by": key.replaced_by,
        "created_by": key.created_by,
        "person_issuer": None if key.person is None else key.person.issuer,
        "person_subject": None if key.person is None else key.person.subject,
    }


def from_row(row: RowMapping) -> ApiKey:
    """Return the key of a row."""
    issuer, subject = row["person_issuer"], row["person_subject"]
    return ApiKey(
        id=row["id"],
        tenant=TenantId(row["tenant"]),
        name=row["name"],
        scopes=frozenset(row["scopes"]),
        secret_digest=row["secret_digest"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        role=stored_role(row["role"]),
        last_used_at=row["last_used_at"],
        replaced_by=row["replaced_by"],
        created_by=row["created_by"],
        person=None if issuer is None else Person(issuer, subject),
    )
