"""Tenants as rows, changed by those who administer the platform."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final

from sqlalchemy import RowMapping, Select, bindparam, delete, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert

from services.api_gateway.adapters.postgres.keys import to_row as key_to_row
from services.api_gateway.adapters.postgres.tables import api_key_table, member_table, tenant_table
from services.api_gateway.domain.api_key import ApiKey
from services.api_gateway.domain.tenant import Plan, Tenant, TenantState
from services.api_gateway.use_cases.ports import Lease
from services.chassis.db.lease import HeldLease
from services.chassis.db.unit_of_work import PostgresUnitOfWork, Transaction
from services.chassis.errors import NotFound
from services.chassis.events.envelope import NewEvent
from services.chassis.tenancy import TenantId

EventOf = Callable[[Tenant], NewEvent]
"""Tells a tenant as an event; given from outside, so that storage knows no protobuf."""

_FIND: Final = select(tenant_table).where(tenant_table.c.id == bindparam("tenant_id"))


@dataclass(frozen=True, slots=True)
class TenantChanges:
    """One transaction over tenants; implements `ports.TenantTransaction`."""

    inner: Transaction
    event_of: EventOf

    @property
    def now(self) -> datetime:
        """Return the one instant that this transaction stamps."""
        return self.inner.now

    async def add(self, tenant: Tenant, first_key: ApiKey) -> bool:
        """Insert the tenant and its key together; False when the tenant exists."""
        added = await self.inner.connection.execute(
            upsert(tenant_table).values(**to_row(tenant)).on_conflict_do_nothing()
        )
        if added.rowcount == 0:
            return False
        await self.add_key(first_key)
        self.emit(tenant)
        return True

    async def add_key(self, key: ApiKey) -> None:
        """Insert a key of a tenant."""
        await self.inner.connection.execute(insert(api_key_table).values(**key_to_row(key)))

    async def get(self, tenant: TenantId) -> Tenant:
        """Return a tenant, locked."""
        found = await self.inner.connection.execute(_FIND.with_for_update(), {"tenant_id": tenant})
        row = found.mappings().one_or_none()
        if row is None:
            raise NotFound("tenant", tenant)
        return from_row(row)

    async def save(self, before: Tenant, after: Tenant) -> None:
        """Store and publish a tenant that this transaction has locked."""
        assert after.version == before.version + 1, "a change has a version of its own"
        await self.inner.connection.execute(
            update(tenant_table).where(tenant_table.c.id == after.id).values(**to_row(after))
        )
        self.emit(after)

    async def locked_page(self, *, after: str, limit: int) -> Sequence[Tenant]:
        """Return tenants by name, none of which changes until the commit."""
        query = _page(after, limit).with_for_update(read=True)
        return [from_row(row) for row in (await self.inner.connection.execute(query)).mappings()]

    async def due(self, *, at: datetime, limit: int) -> Sequence[Tenant]:
        """Return tenants whose grace is over by then, locked, the longest since first.

        Those that somebody has locked are passed over, here and below: they hold up no others.
        """
        query = (
            select(tenant_table)
            .where(tenant_table.c.state == TenantState.DELETING, tenant_table.c.purge_at <= at)
            .order_by(tenant_table.c.purge_at, tenant_table.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return [from_row(row) for row in (await self.inner.connection.execute(query)).mappings()]

    async def delete_purged_keys(self, *, limit: int) -> int:
        """Delete keys of tenants that are PURGED."""
        some = (
            select(api_key_table.c.id)
            .join(tenant_table, tenant_table.c.id == api_key_table.c.tenant)
            .where(tenant_table.c.state == TenantState.PURGED)
            .order_by(api_key_table.c.tenant, api_key_table.c.id)
            .limit(limit)
            .with_for_update(of=api_key_table, skip_locked=True)
        )
        deleted = await self.inner.connection.execute(
            delete(api_key_table).where(api_key_table.c.id.in_(some))
        )
        return deleted.rowcount

    async def delete_purged_members(self, *, limit: int) -> int:
        """Delete members of tenants that are PURGED."""
        names = member_table.c.tenant, member_table.c.issuer, member_table.c.subject
        some = (
            select(*names)
            .join(tenant_table, tenant_table.c.id == member_table.c.tenant)
            .where(tenant_table.c.state == TenantState.PURGED)
            .order_by(*names)
            .limit(limit)
            .with_for_update(of=member_table, skip_locked=True)
        )
        deleted = await self.inner.connection.execute(
            delete(member_table).where(tuple_(*names).in_(some))
        )
        return deleted.rowcount

    async def hold(self, lease: Lease) -> None:
        """Begin a lease holder's transaction with this."""
        await self.inner.hold(HeldLease(lease.name, lease.holder, lease.epoch))

    def emit(self, tenant: Tenant) -> None:
        """Publish the tenant as it is if and only if this transaction commits."""
        assert tenant.is_known, "it is told by a release that knows its state"
        self.inner.emit(self.event_of(tenant))


@dataclass(frozen=True, slots=True)
class PostgresTenants:
    """All tenants; implements `ports.TenantStore`."""

    base: PostgresUnitOfWork
    event_of: EventOf

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[TenantChanges]:
        """Open a transaction; commits on a clean exit."""
        async with self.base.system(because="tenants are administered from outside of any") as tx:
            yield TenantChanges(tx, self.event_of)

    async def find(self, tenant: TenantId) -> Tenant | None:
        """Return the tenant, or None."""
        async with self.base.reading(because="a tenant's standing is asked for") as connection:
            found = await connection.execute(_FIND, {"tenant_id": tenant})
            row = found.mappings().one_or_none()
        return None if row is None else from_row(row)

    async def page(self, *, after: str, limit: int) -> Sequence[Tenant]:
        """Return tenants by name, after this one."""
        async with self.base.reading(because="tenants are listed") as connection:
            found = await connection.execute(_page(after, limit))
            return [from_row(row) for row in found.mappings()]


def _page(after: str, limit: int) -> Select[Any]:
    return (
        select(tenant_table)
        .where(tenant_table.c.id > after)
        .order_by(tenant_table.c.id)
        .limit(limit)
    )


def to_row(tenant: Tenant) -> dict[str, Any]:
    """Return the row of a tenant; of its plan only what is set."""
    return {
        "id": tenant.id,
        "state": tenant.state,
        "version": tenant.version,
        "reason": tenant.reason,
        "plan": {name: value for name, value in asdict(tenant.plan).items() if value is not None},
        "created_at": tenant.created_at,
        "changed_at": tenant.changed_at,
        "purge_at": tenant.purge_at,
    }


def from_row(row: RowMapping) -> Tenant:
    """Return the tenant of a row; what a newer release put in the plan is passed over."""
    return Tenant(
        id=TenantId(row["id"]),
        state=TenantState.stored(row["state"]),
        version=row["version"],
        reason=row["reason"],
        created_at=row["created_at"],
        changed_at=row["changed_at"],
        purge_at=row["purge_at"],
        plan=Plan(**{each.name: row["plan"].get(each.name) for each in fields(Plan)}),
    )
