"""Both databases behind one fixture."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.clock import SystemClock
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.ids import TimeOrderedIds
from services.log_collector.adapters.postgres.tables import chassis
from services.log_collector.adapters.postgres.unit_of_work import LogUnitOfWork
from services.log_collector.entrypoints.protobuf import event_of
from services.log_collector.use_cases.ports import UnitOfWork
from tests.integration.log_collector.databases import engine, url
from tests.integration.log_collector.fakes import MemoryDatabase

__all__ = ["engine", "url"]


@pytest.fixture
def memory_database() -> UnitOfWork:
    return MemoryDatabase()


@pytest.fixture
def postgres_database(engine: AsyncEngine) -> UnitOfWork:
    clock = SystemClock()
    return LogUnitOfWork(
        PostgresUnitOfWork(
            engine, chassis, source="/tests", clock=clock, ids=TimeOrderedIds(clock)
        ),
        event_of,
    )


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
def database(request: pytest.FixtureRequest) -> UnitOfWork:
    made: UnitOfWork = request.getfixturevalue(f"{request.param}_database")
    return made
