"""`python -m services.api_gateway`: serve; or one of an operator's commands.

`… migrate`; `… init`; `… create-tenant NAME`; `… platform-key`.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Final

from services.api_gateway.bootstrap import create_tenant, issue_platform_key, serve
from services.api_gateway.settings import Settings
from services.chassis.errors import ModelyardError
from services.chassis.lifecycle import run_main
from services.chassis.settings import load
from services.chassis.tenancy import TenantId, tenant_id

_FIRST: Final = TenantId("default")
"""Whose first key administers the platform."""


def main() -> int:
    """Run the command that was asked for; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.api_gateway")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("migrate", help="bring the database to its latest shape")
    commands.add_parser(
        "init", help="make the tenant `default`; prints the platform's first key, once"
    )
    tenant = commands.add_parser("create-tenant", help="make a tenant; prints its first key, once")
    tenant.add_argument("name")
    commands.add_parser(
        "platform-key", help="make another key that administers the platform; prints it, once"
    )
    arguments = parser.parse_args()
    settings = load(Settings)
    match arguments.command:
        case "migrate":
            return _migrate(settings)
        case "init":
            return _create_tenant(settings, _FIRST, is_first=True)
        case "create-tenant":
            return _create_tenant(settings, arguments.name, is_first=False)
        case "platform-key":
            return _issue_platform_key(settings)
        case _:
            return run_main(serve(settings))


def _migrate(settings: Settings) -> int:
    # Imported here: a serving process has no alembic in memory.
    from services.chassis.db.migrate import upgrade  # noqa: PLC0415

    url = settings.postgres.url.get_secret_value()
    asyncio.run(upgrade(url, Path(__file__).parent / "migrations"))
    return 0


def _create_tenant(settings: Settings, name: str, *, is_first: bool) -> int:
    """Make a tenant; the first one's key administers all of them, and it may exist already."""
    try:
        text = asyncio.run(create_tenant(settings, tenant_id(name), administers_platform=is_first))
    except ModelyardError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if text is not None:
        # The one thing this program is asked to print: the key is shown here and nowhere else.
        sys.stdout.write(f"{text}\n")
    elif not is_first:
        sys.stderr.write(f"tenant {name} exists already\n")
        return 1
    return 0


def _issue_platform_key(settings: Settings) -> int:
    try:
        text = asyncio.run(issue_platform_key(settings, _FIRST))
    except ModelyardError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
