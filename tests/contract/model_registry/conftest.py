"""Fixtures: each test runs once in memory and once on a real broker; PostgreSQL is real in both."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.events.brokers import Broker, InMemory, OnKafka
from tests.contract.model_registry.consuming import Consuming
from tests.integration.model_registry.registry import running_registry
from tests.support.databases import Databases


@pytest.fixture(params=["memory", "kafka"])
def broker(request: pytest.FixtureRequest) -> Broker:
    if request.param == "memory":
        return InMemory()
    return OnKafka(request.getfixturevalue("kafka_broker"))


@pytest.fixture
async def consuming(
    tmp_path: Path, database_url: Databases, broker: Broker
) -> AsyncIterator[Consuming]:
    async with running_registry(tmp_path / "artifacts", database_url("model_registry")) as registry:
        jobs = await broker.new_topic()
        dead_letters = await broker.new_topic(partition_count=1)
        yield Consuming(registry, broker, jobs, dead_letters)
