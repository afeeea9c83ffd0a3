"""The gateway's migrations: up, down, up, and no drift from the declared tables."""

from pathlib import Path

import services.api_gateway
from services.api_gateway.adapters.postgres.tables import metadata
from services.chassis.db.migrate import downgrade, drift, upgrade
from tests.support.databases import Databases

MIGRATIONS = Path(services.api_gateway.__file__).parent / "migrations"


async def test_migrations_go_up_down_and_up_without_drift(database_url: Databases) -> None:
    url = database_url()
    await upgrade(url, MIGRATIONS)
    assert await drift(url, metadata) == []
    await downgrade(url, MIGRATIONS)
    await upgrade(url, MIGRATIONS)
    assert await drift(url, metadata) == []
