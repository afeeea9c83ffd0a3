"""A migrated database for each test, for this folder and for the contract suite."""

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.db.engine import open_engine
from services.chassis.settings import PostgresSettings
from tests.support.databases import Databases


@pytest.fixture
def url(database_url: Databases) -> str:
    return database_url("log_collector")


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    settings = PostgresSettings(url=SecretStr(url))
    async with open_engine(settings, application_name="tests") as engine:
        yield engine
