"""The scheduler's database behind one fixture: PostgreSQL, and the simulation's (ADR-0025)."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from random import Random

import pytest
from pydantic import SecretStr

from services.chassis.clock import Clock, SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.db.lease import Leases, PostgresLeases
from services.chassis.db.outbox import PostgresOutbox
from services.chassis.db.relay import Outbox
from services.chassis.db.unit_of_work import PostgresUnitOfWork as ChassisUnitOfWork
from services.chassis.ids import TimeOrderedIds
from services.chassis.settings import PostgresSettings
from services.scheduler.adapters.postgres.tables import CHASSIS
from services.scheduler.adapters.postgres.unit_of_work import PostgresUnitOfWork
from services.scheduler.entrypoints.facts import event_of
from services.scheduler.use_cases.ports import UnitOfWork
from tests.simulation.database import Client, Database
from tests.simulation.scheduler_store import MemoryUnitOfWork
from tests.simulation.wire import Odds, Wire
from tests.support.clock import MovedClock
from tests.support.databases import Databases


@dataclass(frozen=True, slots=True)
class Store:
    """One empty database, by the ports that the product reaches it through."""

    unit_of_work: UnitOfWork
    leases: Leases
    outbox: Outbox
    unit_of_work_by: Callable[[Clock], UnitOfWork]

    def on_a_machine(self, *, ahead: timedelta) -> UnitOfWork:
        """Return how a process reaches the database whose machine's clock is wrong."""
        clock = MovedClock()
        clock.ahead = ahead
        return self.unit_of_work_by(clock)


@pytest.fixture
def memory_store() -> Store:
    clock = SystemClock()
    database = Database("scheduler", clock, lambda _database, _commit: None)
    wire = Wire("database", Random(0), Odds(), patience_s=10, is_database=True)

    def client(clock: Clock) -> Client:
        return Client(database, wire, source="/scheduler", clock=clock, ids=TimeOrderedIds(clock))

    def unit_of_work(clock: Clock) -> UnitOfWork:
        return MemoryUnitOfWork(client(clock), event_of)

    return Store(unit_of_work(clock), client(clock), client(clock), unit_of_work)


@pytest.fixture
async def postgres_store(database_url: Databases) -> AsyncIterator[Store]:
    settings = PostgresSettings(url=SecretStr(database_url("scheduler")))
    async with open_engine(settings, application_name="tests") as engine:

        def unit_of_work(clock: Clock) -> UnitOfWork:
            ids = TimeOrderedIds(clock)
            database = ChassisUnitOfWork(engine, CHASSIS, source="/scheduler", clock=clock, ids=ids)
            return PostgresUnitOfWork(database, event_of)

        yield Store(
            unit_of_work(SystemClock()),
            PostgresLeases(engine, CHASSIS),
            PostgresOutbox(engine, CHASSIS),
            unit_of_work,
        )


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
def store(request: pytest.FixtureRequest) -> Store:
    made: Store = request.getfixturevalue(f"{request.param}_store")
    return made
