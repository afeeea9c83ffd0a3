"""Runs the registry's migrations; `chassis.db.migrate` opens the connection."""

from services.chassis.db.migrate import run_migrations
from services.model_registry.adapters.postgres.tables import metadata

run_migrations(metadata)
