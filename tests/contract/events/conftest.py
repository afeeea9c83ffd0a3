"""Fixtures: each contract test runs once in memory and once on a real broker."""

import pytest

from tests.contract.events.brokers import Broker, InMemory, OnKafka


@pytest.fixture
async def memory_events() -> Broker:
    return InMemory()


@pytest.fixture
async def kafka_events(kafka_broker: str) -> Broker:
    return OnKafka(kafka_broker)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.integration)])
def broker(request: pytest.FixtureRequest) -> Broker:
    made: Broker = request.getfixturevalue(f"{request.param}_events")
    return made
