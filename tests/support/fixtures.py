"""Real parts as fixtures. A part that can't be had fails its test; nothing is skipped."""

import secrets
from collections.abc import Iterator, Mapping
from typing import Protocol

import pytest
import redis as redis_client

from deploy.local import kafka, postgres, redis
from deploy.local.kafka import Topic
from deploy.local.postgres import PostgresServer
from deploy.local.state import State
from tests.support.databases import Databases
from tests.support.run_scope import shared, worker_number


class TopicFactory(Protocol):
    """Makes topics whose names no other test has."""

    def __call__(
        self,
        name: str = "topic",
        *,
        partition_count: int = 2,
        config: Mapping[str, str] | None = None,
    ) -> str:
        """Return the name of a fresh topic, which begins with the given one."""
        ...


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server a run, without fsync."""

    def start(state: State) -> PostgresServer:
        return postgres.start(state, durable=False)

    with shared(postgres.PART, start, postgres.halt) as server:
        yield server


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[Databases]:
    """Call it for a fresh database: a service's, `database_url("scheduler")`, or an empty one.

    The URL is SQLAlchemy's (`postgresql+asyncpg://…`), for the superuser; dropped after the test.
    """
    databases = Databases(postgres_server)
    yield databases
    databases.drop_all()


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[str]:
    """One broker a run; its bootstrap address."""
    with shared(kafka.PART, kafka.start, kafka.halt) as address:
        yield address


@pytest.fixture
def kafka_topic(kafka_broker: str) -> TopicFactory:
    """Call it for a fresh topic: `kafka_topic("jobs", partition_count=4)`."""

    def make(
        name: str = "topic",
        *,
        partition_count: int = 2,
        config: Mapping[str, str] | None = None,
    ) -> str:
        topic = Topic(f"{name}.{secrets.token_hex(6)}", partition_count, config or {})
        kafka.ensure_topics(kafka_broker, [topic])
        return topic.name

    return make


@pytest.fixture(scope="session")
def redis_address() -> Iterator[str]:
    """One server a run; the URL of this worker's database in it."""
    with shared(redis.PART, redis.start, redis.halt) as url:
        yield url.removesuffix("/0") + f"/{worker_number()}"


@pytest.fixture
def redis_url(redis_address: str) -> str:
    """Return the URL of an empty database that no other worker uses."""
    with redis_client.Redis.from_url(redis_address) as client:
        client.flushdb()
    return redis_address


__all__ = [
    "TopicFactory",
    "database_url",
    "kafka_broker",
    "kafka_topic",
    "postgres_server",
    "redis_address",
    "redis_url",
]
