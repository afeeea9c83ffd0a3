"""Migrations run whole, one run at a time, and end at the tables that the code declares."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from deploy.local.postgres import PostgresServer
from services.chassis.db.migrate import downgrade, drift, upgrade
from services.chassis.db.tables import NAMING, chassis_tables

pytestmark = pytest.mark.integration

ENV = """
import sqlalchemy as sa
from services.chassis.db.migrate import run_migrations
from services.chassis.db.tables import NAMING

run_migrations(sa.MetaData(naming_convention=NAMING))
"""
FIRST = '''
"""First tables."""
from alembic import op
from services.chassis.db.migrate import create_chassis_tables, drop_chassis_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_chassis_tables(op)


def downgrade() -> None:
    drop_chassis_tables(op)
'''
FAILING = '''
"""Fails halfway."""
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("CREATE TABLE half_done (id int)")
    op.execute("SELECT 1 / 0")
'''


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENV)
    (tmp_path / "versions" / "0001_pre_first.py").write_text(FIRST)
    return tmp_path


@pytest.fixture
async def empty_url(server: PostgresServer, url: str) -> str:
    name = url.rsplit("/", 1)[1]
    admin = await server.connect()
    await admin.execute(f"DROP DATABASE {name}")
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    return url


async def _tables(url: str) -> set[str]:
    engine = create_async_engine(url, poolclass=sa.NullPool)
    async with engine.connect() as connection:
        return set(await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names()))


async def test_migrations_go_up_down_and_up_again_without_drift(
    empty_url: str, migrations: Path
) -> None:
    metadata = sa.MetaData(naming_convention=NAMING)
    chassis_tables(metadata)

    await upgrade(empty_url, migrations)
    assert await drift(empty_url, metadata) == []
    await downgrade(empty_url, migrations)
    assert await _tables(empty_url) == {"alembic_version"}
    await upgrade(empty_url, migrations)
    assert await drift(empty_url, metadata) == []


async def test_several_processes_may_migrate_at_once(empty_url: str, migrations: Path) -> None:
    await asyncio.gather(*(upgrade(empty_url, migrations) for _ in range(3)))
    assert "outbox" in await _tables(empty_url)


async def test_a_failed_migration_leaves_the_database_as_it_was(
    empty_url: str, migrations: Path
) -> None:
    (migrations / "versions" / "0002_pre_fails.py").write_text(FAILING)
    with pytest.raises(sa.exc.DBAPIError):
        await upgrade(empty_url, migrations)
    assert await _tables(empty_url) == set()


async def test_drift_names_what_the_migrations_lack(empty_url: str, migrations: Path) -> None:
    metadata = sa.MetaData(naming_convention=NAMING)
    chassis_tables(metadata)
    sa.Table("forgotten", metadata, sa.Column("id", sa.Text, primary_key=True))
    await upgrade(empty_url, migrations)
    (difference,) = await drift(empty_url, metadata)
    assert "forgotten" in difference
