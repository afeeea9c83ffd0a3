"""Runs the collector's migrations; `chassis.db.migrate` opens the connection."""

from services.chassis.db.migrate import run_migrations
from services.log_collector.adapters.postgres.tables import metadata

run_migrations(metadata)
