"""A runner's use cases on stand-ins, fresh for each test."""

import pytest

from tests.unit.scheduler_runner.bench import Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()
