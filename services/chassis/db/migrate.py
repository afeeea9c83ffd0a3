"""Bringing a service's database to its latest shape, in a process of its own.

Owns: running alembic on asyncpg, one migration run at a time, and the chassis' tables for a
service's first migration. A service's `migrations/env.py` is two lines: import its metadata, call
`run_migrations(metadata)`. Imported by `python -m services.<name> migrate` and tests only: a
serving process has no alembic in memory.

Always holds: a run is one transaction: a failed migration leaves the database as it was.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import sqlalchemy as sa
from alembic import command, context
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from services.chassis.db.tables import NAMING, chassis_tables

_ONE_AT_A_TIME: Final = 0x6D6F_6465_6C79  # "modely": the advisory lock that runs take in turn
_LOCK_TIMEOUT: Final = "4s"


class Bound(Protocol):
    """What is asked of `alembic.op`: the connection that the migration runs on."""

    def get_bind(self) -> sa.Connection:
        """Return the connection."""
        ...


async def upgrade(url: str, script_location: Path, revision: str = "head") -> None:
    """Run the migrations that the database lacks; waits while another process runs them."""
    await _run(url, script_location, lambda config: command.upgrade(config, revision))


async def downgrade(url: str, script_location: Path, revision: str = "base") -> None:
    """Undo migrations down to a revision; for tests of migrations."""
    await _run(url, script_location, lambda config: command.downgrade(config, revision))


async def drift(url: str, metadata: sa.MetaData) -> list[str]:
    """Return what differs between a migrated database and the tables that the code declares."""

    def compare(connection: sa.Connection) -> list[str]:
        migration = MigrationContext.configure(connection, opts={"compare_type": True})
        return [str(difference) for difference in compare_metadata(migration, metadata)]

    engine = create_async_engine(url, poolclass=sa.NullPool)
    async with engine.connect() as connection:
        return await connection.run_sync(compare)


def run_migrations(metadata: sa.MetaData) -> None:
    """Be a service's `env.py`: run within the connection that `upgrade` opened."""
    connection: sa.Connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=metadata, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()


def create_chassis_tables(op: Bound) -> None:
    """Create outbox, inbox, idempotency and lease in a service's first migration.

    Once released these tables change by new functions here, called from new migrations.
    """
    metadata = sa.MetaData(naming_convention=NAMING)
    chassis_tables(metadata)
    metadata.create_all(op.get_bind())


def drop_chassis_tables(op: Bound) -> None:
    """Undo `create_chassis_tables`."""
    metadata = sa.MetaData(naming_convention=NAMING)
    chassis_tables(metadata)
    metadata.drop_all(op.get_bind())


async def _run(url: str, script_location: Path, run: Callable[[Config], None]) -> None:
    config = Config()
    config.set_main_option("script_location", str(script_location))

    def run_on(connection: sa.Connection) -> None:
        config.attributes["connection"] = connection
        run(config)

    engine = create_async_engine(url, poolclass=sa.NullPool)
    async with engine.begin() as connection:
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ONE_AT_A_TIME)))
        # A migration that would queue behind a long transaction gives up instead of blocking the
        # requests that would then queue behind it.
        await connection.execute(sa.text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
        await connection.run_sync(run_on)
