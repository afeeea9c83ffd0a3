"""Fixtures: real databases."""

from tests.integration.log_collector.databases import engine, url

__all__ = ["engine", "url"]
