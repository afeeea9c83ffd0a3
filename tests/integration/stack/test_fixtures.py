"""The shared fixtures keep what they promise to other tests."""

import asyncpg
import redis
from confluent_kafka.admin import AdminClient

from tests.support.databases import Databases
from tests.support.fixtures import TopicFactory


async def test_database_url_gives_each_call_a_database_of_its_own(database_url: Databases) -> None:
    first, second = (database_url().replace("+asyncpg", "") for _ in range(2))
    connection = await asyncpg.connect(first)
    await connection.execute("CREATE TABLE mine (id int)")
    await connection.close()

    other = await asyncpg.connect(second)
    try:
        assert await other.fetchval("SELECT to_regclass('mine')") is None
    finally:
        await other.close()


async def test_database_url_gives_a_service_its_migrated_tables(database_url: Databases) -> None:
    connection = await asyncpg.connect(database_url("scheduler").replace("+asyncpg", ""))
    try:
        assert await connection.fetchval("SELECT count(*) FROM outbox") == 0
    finally:
        await connection.close()


def test_kafka_topic_gives_each_call_a_topic_of_its_own(
    kafka_broker: str, kafka_topic: TopicFactory
) -> None:
    first, second = kafka_topic("jobs", partition_count=3), kafka_topic("jobs")

    topics = AdminClient({"bootstrap.servers": kafka_broker}).list_topics(timeout=10).topics
    assert (len(topics[first].partitions), len(topics[second].partitions)) == (3, 2)


def test_redis_url_is_empty_for_each_test(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_redis_url_is_empty_for_the_next_test_too(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")
