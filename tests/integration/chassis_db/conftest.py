"""A database of its own for each test, with the chassis' tables and one table of accounts."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest
import sqlalchemy as sa
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from deploy.local import postgres
from deploy.local.postgres import PostgresServer
from deploy.local.state import State
from services.chassis.clock import SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.db.tables import NAMING, ChassisTables, chassis_tables
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.ids import TimeOrderedIds
from services.chassis.settings import PostgresSettings

METADATA = sa.MetaData(naming_convention=NAMING)
TABLES = chassis_tables(METADATA)
ACCOUNTS = sa.Table(
    "account",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Store:
    """One test's database as a service sees it."""

    url: str
    engine: AsyncEngine
    tables: ChassisTables
    unit_of_work: PostgresUnitOfWork


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    state = State(tmp_path_factory.mktemp("postgres"))
    try:
        yield postgres.start(state, durable=False)
    finally:
        postgres.halt(state)
        state.clean()


@pytest.fixture(scope="session")
def template(server: PostgresServer) -> str:
    server.execute("CREATE DATABASE chassis_template")

    async def create() -> None:
        engine = create_async_engine(server.url("chassis_template"), poolclass=sa.NullPool)
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)

    asyncio.run(create())
    return "chassis_template"


_numbers = itertools.count()


@pytest.fixture
async def url(server: PostgresServer, template: str) -> AsyncIterator[str]:
    name = f"chassis_{next(_numbers)}"
    admin = await server.connect()
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.url(name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
def settings(url: str) -> PostgresSettings:
    return PostgresSettings(url=SecretStr(url), lock_timeout=timedelta(seconds=20))


@pytest.fixture
async def store(settings: PostgresSettings) -> AsyncIterator[Store]:
    async with _open_store(settings) as opened:
        yield opened


@pytest.fixture
async def impatient_store(settings: PostgresSettings) -> AsyncIterator[Store]:
    """Give the same database, in sessions that wait for a lock for a moment only."""
    impatient = settings.model_copy(update={"lock_timeout": timedelta(milliseconds=300)})
    async with _open_store(impatient) as opened:
        yield opened


@asynccontextmanager
async def _open_store(settings: PostgresSettings) -> AsyncIterator[Store]:
    async with open_engine(settings, application_name="tests") as engine:
        clock = SystemClock()
        unit_of_work = PostgresUnitOfWork(
            engine, TABLES, source="modelyard/tests", clock=clock, ids=TimeOrderedIds(clock)
        )
        yield Store(settings.url.get_secret_value(), engine, TABLES, unit_of_work)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Record spans for one test; the global provider can be set only once a process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter
