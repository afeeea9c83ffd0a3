"""`python -m services.model_registry`: serve; `… migrate`: bring its database up to date."""

import argparse
import asyncio
import sys
from pathlib import Path

from services.chassis.lifecycle import run_main
from services.chassis.settings import load
from services.model_registry.bootstrap import serve
from services.model_registry.settings import Settings


def main() -> int:
    """Run the command that was asked for; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.model_registry")
    parser.add_argument("command", nargs="?", choices=["serve", "migrate"], default="serve")
    arguments = parser.parse_args()
    settings = load(Settings)
    if arguments.command == "serve":
        return run_main(serve(settings))
    return _migrate(settings)


def _migrate(settings: Settings) -> int:
    # Imported here: a serving process has no alembic in memory.
    from services.chassis.db.migrate import upgrade  # noqa: PLC0415

    url = settings.postgres.url.get_secret_value()
    asyncio.run(upgrade(url, Path(__file__).parent / "migrations"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
