"""The scheduler's migrations: up, down, up, and no drift from the declared tables."""

from collections.abc import AsyncIterator

import pytest

from deploy.local.postgres import PostgresServer
from services.chassis.db.migrate import downgrade, drift, upgrade
from services.scheduler.adapters.postgres.tables import METADATA
from tests.integration.scheduler.conftest import MIGRATIONS


@pytest.fixture
async def empty_url(server: PostgresServer) -> AsyncIterator[str]:
    admin = await server.connect()
    await admin.execute("CREATE DATABASE scheduler_empty")
    yield server.url("scheduler_empty")
    await admin.execute("DROP DATABASE scheduler_empty WITH (FORCE)")
    await admin.close()


async def test_migrations_go_up_down_and_up_without_drift(empty_url: str) -> None:
    await upgrade(empty_url, MIGRATIONS)
    assert await drift(empty_url, METADATA) == []
    await downgrade(empty_url, MIGRATIONS)
    await upgrade(empty_url, MIGRATIONS)
    assert await drift(empty_url, METADATA) == []
