"""A statement that forgets the tenant fails where it is sent, whichever service sends it."""

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from services.api_gateway.adapters.postgres.tables import api_key_table
from services.chassis.clock import SystemClock
from services.chassis.db.engine import autocommitting, open_engine
from services.chassis.db.tables import NAMING, chassis_tables
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.ids import TimeOrderedIds
from services.chassis.settings import PostgresSettings
from services.log_collector.adapters.postgres.tables import log_stream
from services.model_registry.adapters.postgres import tables as registry
from services.scheduler.adapters.postgres import tables as scheduler
from tests.integration.chassis_db.builders import ALPHA, BETA, an_event
from tests.support.databases import Databases
from tests.support.tenant_statements import TenantNotNamed

CHASSIS = chassis_tables(sa.MetaData(naming_convention=NAMING))
OF_TENANTS = {
    "api_gateway": (api_key_table,),
    "log_collector": (log_stream,),
    "model_registry": (registry.model, registry.model_version, registry.artifact),
    "scheduler": (
        scheduler.JOBS,
        scheduler.ATTEMPTS,
        scheduler.DEPLOYMENTS,
        scheduler.REPLICAS,
    ),
}


@pytest.fixture(params=OF_TENANTS)
async def service(
    request: pytest.FixtureRequest, database_url: Databases
) -> AsyncIterator[tuple[list[sa.Table], PostgresUnitOfWork, PostgresUnitOfWork]]:
    """A service's tables with rows of tenants, and its two kinds of units of work."""
    settings = PostgresSettings(url=SecretStr(database_url(request.param)))
    clock = SystemClock()
    async with open_engine(settings, application_name="tests") as engine:
        transactions, look_ups = (
            PostgresUnitOfWork(each, CHASSIS, source="/x", clock=clock, ids=TimeOrderedIds(clock))
            for each in (engine, autocommitting(engine))
        )
        tables = [*OF_TENANTS[request.param], CHASSIS.idempotency, CHASSIS.outbox]
        yield tables, transactions, look_ups


async def test_a_forgotten_condition_fails_when_a_tenants_unit_of_work_sends_it(
    service: tuple[list[sa.Table], PostgresUnitOfWork, PostgresUnitOfWork],
) -> None:
    tables, *units_of_work = service
    for unit_of_work in units_of_work:
        for table in tables:
            async with unit_of_work(ALPHA) as tx:
                found = await tx.connection.execute(sa.select(table).where(table.c.tenant == ALPHA))
                assert found.all() == []
            for forgotten in (
                sa.select(table),
                sa.select(table).where(table.c.tenant == BETA),
                sa.update(table).values(tenant=ALPHA),
                sa.delete(table),
            ):
                with pytest.raises(TenantNotNamed):
                    async with unit_of_work(ALPHA) as tx:
                        await tx.connection.execute(forgotten)


async def test_an_event_of_another_tenant_fails_when_a_tenants_unit_of_work_emits_it(
    service: tuple[list[sa.Table], PostgresUnitOfWork, PostgresUnitOfWork],
) -> None:
    _, unit_of_work, _ = service
    with pytest.raises(TenantNotNamed):
        async with unit_of_work(ALPHA) as tx:
            tx.emit(an_event(tenant=BETA))


async def test_the_systems_statements_span_tenants(
    service: tuple[list[sa.Table], PostgresUnitOfWork, PostgresUnitOfWork],
) -> None:
    tables, unit_of_work, _ = service
    for table in tables:
        async with unit_of_work.system(because="test") as tx:
            assert (await tx.connection.execute(sa.select(table))).all() == []
