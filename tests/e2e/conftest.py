"""Fixtures: what to do with the run's platform, and a bench for each test's jobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from modelyard.client import Client

from tests.e2e.bench import Bench
from tests.e2e.platform import Platform
from tests.support.platform import Platform as RunningPlatform


@pytest.fixture(scope="session")
def platform(platform: RunningPlatform) -> Platform:
    """Give the run's platform with what its users and its operator do."""
    return Platform(platform)


@pytest.fixture
def client(platform: Platform) -> Iterator[Client]:
    """Give a client that is patient enough for a service that is started again."""
    with platform.client(tries_max=30) as client:
        yield client


@pytest.fixture
def bench(client: Client, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(client, tmp_path)
    yield bench
    bench.clear()
