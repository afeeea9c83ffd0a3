"""Fixtures: what the services' own tests have."""

from tests.integration.log_collector.databases import engine, url
from tests.integration.scheduler.conftest import identity, yard

__all__ = ["engine", "identity", "url", "yard"]
