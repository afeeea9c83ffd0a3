"""Tenants and keys as rows; every query of a `Keys` is its tenant's."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api_gateway.adapters.postgres.tables import api_key_table, tenant_table
from services.api_gateway.domain.api_key import ApiKey
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.errors import NotFound
from services.chassis.tenancy import TenantId


@dataclass(frozen=True, slots=True)
class Keys:
    """One tenant's keys, in one transaction."""

    connection: AsyncConnection
    tenant: TenantId

    async def add(self, key: ApiKey) -> None:
        """Insert a key."""
        assert key.tenant == self.tenant
        await self.connection.execute(insert(api_key_table).values(**to_row(key)))

    async def get(self, key_id: str) -> ApiKey:
        """Return a key; raises NotFound."""
        found = await self.connection.execute(
            select(api_key_table).where(
                api_key_table.c.tenant == self.tenant, api_key_table.c.id == key_id
            )
        )
        row = found.mappings().one_or_none()
        if row is None:
            raise NotFound("api key", key_id)
        return from_row(row)

    async def list(self, *, limit: int) -> Sequence[ApiKey]:
        """Return the newest keys."""
        found = await self.connection.execute(
            select(api_key_table)
            .where(api_key_table.c.tenant == self.tenant)
            .order_by(api_key_table.c.id.desc())
            .limit(limit)
        )
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


@dataclass(frozen=True, slots=True)
class KeyTransaction:
    """One tenant's transaction."""

    keys: Keys


@dataclass(frozen=True, slots=True)
class KeyUnitOfWork:
    """Opens a tenant's transactions."""

    base: PostgresUnitOfWork

    @asynccontextmanager
    async def __call__(self, tenant: TenantId) -> AsyncIterator[KeyTransaction]:
        """One transaction; commits on a clean exit."""
        async with self.base(tenant) as tx:
            yield KeyTransaction(Keys(tx.connection, tenant))


@dataclass(frozen=True, slots=True)
class PostgresDirectory:
    """Reads keys across tenants: authentication finds out whose a key is."""

    base: PostgresUnitOfWork

    async def find_key(self, key_id: str) -> ApiKey | None:
        """Return the key with this id, or None."""
        async with self.base.system(because="authentication finds a key's tenant") as tx:
            found = await tx.connection.execute(
                select(api_key_table).where(api_key_table.c.id == key_id)
            )
            row = found.mappings().one_or_none()
        return None if row is None else from_row(row)

    async def add_tenant(self, tenant: TenantId, first_key: ApiKey) -> bool:
        """Insert the tenant and its key together; False when the tenant exists."""
        async with self.base.system(because="a tenant is made from outside of any") as tx:
            added = await tx.connection.execute(
                upsert(tenant_table)
                .values(id=tenant, created_at=first_key.created_at)
                .on_conflict_do_nothing()
            )
            if added.rowcount == 0:
                return False
            await tx.connection.execute(insert(api_key_table).values(**to_row(first_key)))
        return True


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
    }


def from_row(row: RowMapping) -> ApiKey:
    """Return the key of a row."""
    return ApiKey(
        id=row["id"],
        tenant=TenantId(row["tenant"]),
        name=row["name"],
        scopes=frozenset(row["scopes"]),
        secret_digest=row["secret_digest"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
