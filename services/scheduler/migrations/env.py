"""Runs the scheduler's migrations; `chassis.db.migrate` opens the connection."""

from services.chassis.db.migrate import run_migrations
from services.scheduler.adapters.postgres.tables import METADATA

run_migrations(METADATA)
