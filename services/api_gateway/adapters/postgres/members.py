"""Members as rows; every query of a `Members` is its tenant's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, delete, func, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api_gateway.adapters.postgres.tables import member_table, tenant_table
from services.api_gateway.adapters.postgres.tenants import from_row as tenant_from_row
from services.api_gateway.domain.member import Member, Person
from services.api_gateway.domain.roles import ADMINISTRATORS, Role
from services.api_gateway.domain.tenant import Tenant
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.errors import NotFound
from services.chassis.tenancy import TenantId

_COLUMNS = member_table.c


@dataclass(frozen=True, slots=True)
class Members:
    """One tenant's members, in one transaction."""

    connection: AsyncConnection
    tenant: TenantId

    async def locked_tenant(self) -> Tenant:
        """Return the tenant and hold its row; raises NotFound."""
        found = await self.connection.execute(
            select(tenant_table).where(tenant_table.c.id == self.tenant).with_for_update()
        )
        row = found.mappings().one_or_none()
        if row is None:
            raise NotFound("tenant", self.tenant)
        return tenant_from_row(row)

    async def find(self, person: Person) -> Member | None:
        """Return somebody's row, or None."""
        found = await self.connection.execute(select(member_table).where(*self._is(person)))
        row = found.mappings().one_or_none()
        return None if row is None else from_row(row)

    async def count(self) -> int:
        """Count the rows."""
        query = select(func.count()).select_from(member_table)
        found = await self.connection.execute(query.where(_COLUMNS.tenant == self.tenant))
        return int(found.scalar_one())

    async def has_administrator_beside(self, person: Person) -> bool:
        """Look for a row of somebody else with such a role."""
        beside = select(member_table).where(
            _COLUMNS.tenant == self.tenant,
            _COLUMNS.roles.overlap(sorted(ADMINISTRATORS)),
            tuple_(_COLUMNS.issuer, _COLUMNS.subject) != (person.issuer, person.subject),
        )
        found = await self.connection.execute(select(beside.exists()))
        return bool(found.scalar_one())

    async def add(self, member: Member) -> None:
        """Insert a member."""
        assert member.tenant == self.tenant
        await self.connection.execute(insert(member_table).values(**to_row(member)))

    async def save(self, member: Member) -> None:
        """Update a member's roles."""
        assert member.tenant == self.tenant
        await self.connection.execute(
            update(member_table).where(*self._is(member.person)).values(**to_row(member))
        )

    async def remove(self, person: Person) -> None:
        """Delete somebody's row, and keep its version in the tenant's."""
        deleted = await self.connection.execute(
            delete(member_table).where(*self._is(person)).returning(_COLUMNS.version)
        )
        kept = tenant_table.c.removed_member_version_max
        await self.connection.execute(
            update(tenant_table)
            .where(tenant_table.c.id == self.tenant)
            .values({kept: func.greatest(kept, deleted.scalar_one())})
        )

    async def removed_version_max(self) -> int:
        """Read it from the tenant's row."""
        found = await self.connection.execute(
            select(tenant_table.c.removed_member_version_max).where(
                tenant_table.c.id == self.tenant
            )
        )
        return int(found.scalar_one())

    async def page(self, *, after: Person | None, limit: int) -> Sequence[Member]:
        """Return members by issuer and subject, after this one."""
        by = _COLUMNS.issuer, _COLUMNS.subject
        query = select(member_table).where(_COLUMNS.tenant == self.tenant)
        if after is not None:
            query = query.where(tuple_(*by) > (after.issuer, after.subject))
        found = await self.connection.execute(query.order_by(*by).limit(limit))
        return [from_row(row) for row in found.mappings()]

    def _is(self, person: Person) -> tuple[ColumnElement[bool], ...]:
        return (
            _COLUMNS.tenant == self.tenant,
            _COLUMNS.issuer == person.issuer,
            _COLUMNS.subject == person.subject,
        )


@dataclass(frozen=True, slots=True)
class PostgresMemberDirectory:
    """Reads members across tenants: authentication finds out whose member somebody is."""

    base: PostgresUnitOfWork

    async def find_members(
        self, person: Person, *, tenant: TenantId | None, limit: int
    ) -> Sequence[Member]:
        """Return somebody's memberships by tenant, or the one of a tenant."""
        query = (
            select(member_table)
            .where(_COLUMNS.issuer == person.issuer, _COLUMNS.subject == person.subject)
            .order_by(_COLUMNS.tenant)
            .limit(limit)
        )
        if tenant is not None:
            query = query.where(_COLUMNS.tenant == tenant)
        async with self.base.reading(because="authentication finds a person's tenants") as reading:
            found = await reading.execute(query)
            return [from_row(row) for row in found.mappings()]


def to_row(member: Member) -> dict[str, Any]:
    """Return the row of a member."""
    return {
        "tenant": member.tenant,
        "issuer": member.person.issuer,
        "subject": member.person.subject,
        "roles": sorted(member.roles),
        "version": member.version,
        "added_at": member.added_at,
        "changed_at": member.changed_at,
        "changed_by": member.changed_by,
    }


def from_row(row: RowMapping) -> Member:
    """Return the member of a row; a role that only a newer release knows gives nothing here."""
    return Member(
        tenant=TenantId(row["tenant"]),
        person=Person(row["issuer"], row["subject"]),
        roles=frozenset(role for role in Role if role.value in row["roles"]),
        version=row["version"],
        added_at=row["added_at"],
        changed_at=row["changed_at"],
        changed_by=row["changed_by"],
    )
