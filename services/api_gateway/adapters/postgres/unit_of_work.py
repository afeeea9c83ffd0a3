"""One transaction of a tenant, over its keys and its members."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from services.api_gateway.adapters.postgres.keys import Keys
from services.api_gateway.adapters.postgres.members import Members
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.tenancy import TenantId


@dataclass(frozen=True, slots=True)
class OneTenantTransaction:
    """One tenant's transaction; implements `ports.Transaction`."""

    now: datetime
    keys: Keys
    members: Members


@dataclass(frozen=True, slots=True)
class OneTenantUnitOfWork:
    """Opens a tenant's transactions; implements `ports.UnitOfWork`."""

    base: PostgresUnitOfWork

    @asynccontextmanager
    async def __call__(self, tenant: TenantId) -> AsyncIterator[OneTenantTransaction]:
        """One transaction; commits on a clean exit."""
        async with self.base(tenant) as tx:
            connection = tx.connection
            yield OneTenantTransaction(
                tx.now, Keys(connection, tenant), Members(connection, tenant)
            )
