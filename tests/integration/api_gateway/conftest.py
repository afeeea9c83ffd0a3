"""Fixtures: the gateway's database."""

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.db.engine import open_engine
from services.chassis.settings import PostgresSettings
from tests.support.databases import Databases


@pytest.fixture
async def engine(database_url: Databases) -> AsyncIterator[AsyncEngine]:
    settings = PostgresSettings(url=SecretStr(database_url("api_gateway")))
    async with open_engine(settings, application_name="test") as engine:
        yield engine
