"""The scheduler's migrations: up, down, up, and no drift from the declared tables."""

from pathlib import Path

import services.scheduler
from services.chassis.db.migrate import downgrade, drift, upgrade
from services.scheduler.adapters.postgres.tables import METADATA
from tests.support.databases import Databases

MIGRATIONS = Path(services.scheduler.__file__).parent / "migrations"


async def test_migrations_go_up_down_and_up_without_drift(database_url: Databases) -> None:
    url = database_url()
    await upgrade(url, MIGRATIONS)
    assert await drift(url, METADATA) == []
    await downgrade(url, MIGRATIONS)
    await upgrade(url, MIGRATIONS)
    assert await drift(url, METADATA) == []
