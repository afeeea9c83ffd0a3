"""Runs the gateway's migrations; `chassis.db.migrate` opens the connection."""

from services.api_gateway.adapters.postgres.tables import metadata
from services.chassis.db.migrate import run_migrations

run_migrations(metadata)
