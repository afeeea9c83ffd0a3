"""A PostgreSQL database of its own for each test, copied from a migrated template.

A service's template is migrated once a run by its own migrations; a copy takes tens of
milliseconds.
"""

import asyncio
import secrets
from pathlib import Path
from typing import Final

from deploy.local import asynchronously
from deploy.local.postgres import PostgresServer
from deploy.local.state import CHECKOUT
from services.chassis.db.migrate import upgrade
from tests.support.run_scope import once

_EMPTY: Final = "template1"


class Databases:
    """Makes databases, and drops those it made."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._made: list[str] = []

    def __call__(self, service: str | None = None) -> str:
        """Return the URL of a fresh database: a service's, at its latest shape, or an empty one."""
        template = self._template_of(service) if service else _EMPTY
        name = f"test_{secrets.token_hex(6)}"
        self._server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        self._made.append(name)
        return self._server.url(name)

    def drop_all(self) -> None:
        """Drop what was made here, with the connections that a test left open."""
        self._server.execute(*(f"DROP DATABASE {name} WITH (FORCE)" for name in self._made))
        self._made.clear()

    def _template_of(self, service: str) -> str:
        template = f"template_{service}"
        with once(template):
            if not self._exists(template):
                unfinished = f"{template}_unfinished"
                self._server.execute(
                    f"DROP DATABASE IF EXISTS {unfinished}", f"CREATE DATABASE {unfinished}"
                )
                migrations = CHECKOUT / "services" / service / "migrations"
                _migrate(self._server.url(unfinished), migrations)
                self._server.execute(f"ALTER DATABASE {unfinished} RENAME TO {template}")
        return template

    def _exists(self, database: str) -> bool:
        async def ask() -> bool:
            connection = await self._server.connect()
            try:
                query = "SELECT 1 FROM pg_database WHERE datname = $1"
                return await connection.fetchval(query, database) is not None
            finally:
                await connection.close()

        return asynchronously.run(ask())


def _migrate(url: str, migrations: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(60):
            await upgrade(url, migrations)

    asynchronously.run(run())
