"""Fixtures: a running registry with a database of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.model_registry.registry import Client, Registry, running_registry
from tests.support.databases import Databases


@pytest.fixture
async def registry(tmp_path: Path, database_url: Databases) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path / "artifacts", database_url("model_registry")) as running:
        yield running


@pytest.fixture
def client(registry: Registry) -> Client:
    return registry.client
