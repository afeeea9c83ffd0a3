"""Fixtures: one stack for the whole run, and a bench for each test's jobs."""

import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from modelyard.client import Client

from deploy.local.state import State
from tests.e2e.bench import Bench
from tests.e2e.platform import Platform


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    state = State(Path(tempfile.gettempdir()) / f"modelyard-e2e-{secrets.token_hex(4)}")
    platform = Platform.up(state)
    try:
        yield platform
    finally:
        platform.clean()


@pytest.fixture
def client(platform: Platform) -> Iterator[Client]:
    with platform.client() as client:
        yield client


@pytest.fixture
def bench(client: Client, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(client, tmp_path)
    yield bench
    bench.clear()
