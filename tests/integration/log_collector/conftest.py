"""Fixtures: real databases."""

from tests.integration.log_collector.databases import engine, server, template, url

__all__ = ["engine", "server", "template", "url"]
