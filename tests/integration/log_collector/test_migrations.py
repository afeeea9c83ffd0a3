"""The collector's migrations: up, down, up, and no drift from the declared tables."""

from collections.abc import AsyncIterator

import pytest

from deploy.local.postgres import PostgresServer
from services.chassis.db.migrate import downgrade, drift, upgrade
from services.log_collector.adapters.postgres.tables import metadata
from tests.integration.log_collector.databases import MIGRATIONS


@pytest.fixture
async def empty_url(server: PostgresServer) -> AsyncIterator[str]:
    admin = await server.connect()
    await admin.execute("CREATE DATABASE log_collector_empty")
    yield server.url("log_collector_empty")
    await admin.execute("DROP DATABASE log_collector_empty WITH (FORCE)")
    await admin.close()


async def test_migrations_go_up_down_and_up_without_drift(empty_url: str) -> None:
    await upgrade(empty_url, MIGRATIONS)
    assert await drift(empty_url, metadata) == []
    await downgrade(empty_url, MIGRATIONS)
    await upgrade(empty_url, MIGRATIONS)
    assert await drift(empty_url, metadata) == []
