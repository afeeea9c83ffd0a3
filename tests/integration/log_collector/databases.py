"""A database of its own for each test, brought up by the collector's migrations.

Fixtures for the `conftest.py` of this folder and of the contract suite.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

import services.log_collector
from deploy.local import postgres
from deploy.local.postgres import PostgresServer
from deploy.local.state import State
from services.chassis.db.engine import open_engine
from services.chassis.db.migrate import upgrade
from services.chassis.settings import PostgresSettings

MIGRATIONS = Path(services.log_collector.__file__).parent / "migrations"

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    state = State(tmp_path_factory.mktemp("postgres"))
    yield postgres.start(state, durable=False)
    postgres.halt(state)


@pytest.fixture(scope="session")
def template(server: PostgresServer) -> str:
    server.execute("CREATE DATABASE log_collector_template")
    asyncio.run(upgrade(server.url("log_collector_template"), MIGRATIONS))
    return "log_collector_template"


@pytest.fixture
async def url(server: PostgresServer, template: str) -> AsyncIterator[str]:
    name = f"log_collector_{next(_numbers)}"
    admin = await server.connect()
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.url(name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    settings = PostgresSettings(url=SecretStr(url))
    async with open_engine(settings, application_name="tests") as engine:
        yield engine
