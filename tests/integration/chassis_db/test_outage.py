"""A database that goes away is told at once, and is used again as soon as it is back."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from deploy.local import postgres
from deploy.local.state import State
from services.chassis.clock import SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.db.lease import PostgresLeases
from services.chassis.db.outbox import PostgresOutbox
from services.chassis.db.relay import Relay
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.errors import Unavailable
from services.chassis.ids import TimeOrderedIds
from services.chassis.settings import PostgresSettings
from tests.integration.chassis_db.builders import (
    ALPHA,
    FakeProducer,
    an_event,
    eventually,
    running,
)
from tests.integration.chassis_db.conftest import METADATA, TABLES, Store

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    """A server of this test's own, since it is stopped and started."""
    state = State(tmp_path_factory.mktemp("restarted"))
    try:
        postgres.start(state, durable=False)
        yield state
    finally:
        postgres.halt(state)
        state.clean()


async def test_units_of_work_and_relay_recover_from_a_restart(state: State) -> None:
    url = postgres.start(state, durable=False).url()
    clock = SystemClock()
    producer = FakeProducer()
    async with open_engine(
        PostgresSettings(url=SecretStr(url)), application_name="tests"
    ) as engine:
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        unit_of_work = PostgresUnitOfWork(
            engine, TABLES, source="modelyard/tests", clock=clock, ids=TimeOrderedIds(clock)
        )
        relay = Relay(
            PostgresOutbox(engine, TABLES),
            PostgresLeases(engine, TABLES),
            producer,
            holder="a",
            clock=clock,
            idle=unit_of_work.idle,
            lease_ttl=timedelta(seconds=3),
        )
        unit_of_work.add_listener(relay.wake)

        async def emitted() -> bool:
            try:
                async with unit_of_work(ALPHA) as tx:
                    tx.emit(an_event(data=b"after"))
            except Unavailable:
                return False
            return True

        async with running(relay.run):
            async with unit_of_work(ALPHA) as tx:
                tx.emit(an_event(data=b"before"))
            postgres.halt(state)
            with pytest.raises(Unavailable):
                await unit_of_work.ping()
            for _ in range(8):  # past the breaker's threshold: open or closed, the answer is one
                assert not await emitted()

            postgres.start(state, durable=False)
            await eventually(emitted)
            await unit_of_work.ping()

            async def sent() -> bool:
                return producer.values()[-1:] == [b"after"]

            await eventually(sent)


async def test_a_connection_that_died_in_the_pool_is_replaced_unnoticed(store: Store) -> None:
    async with store.unit_of_work(ALPHA) as tx:
        await tx.connection.execute(sa.text("SELECT 1"))
    async with store.engine.connect() as connection:
        others = sa.text(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await connection.execute(others)
    async with store.unit_of_work(ALPHA) as tx:
        assert await tx.connection.scalar(sa.text("SELECT 1")) == 1


async def test_a_connection_lost_inside_a_transaction_is_unavailable(store: Store) -> None:
    async def work() -> None:
        async with store.unit_of_work(ALPHA) as tx:
            backend = await tx.connection.scalar(sa.text("SELECT pg_backend_pid()"))
            async with store.engine.connect() as connection:
                await connection.execute(sa.select(sa.func.pg_terminate_backend(backend)))
            await tx.connection.execute(sa.text("SELECT 1"))

    with pytest.raises(Unavailable):
        await work()


async def test_a_full_pool_is_unavailable_but_no_outage(store: Store) -> None:
    settings = PostgresSettings(
        url=SecretStr(store.url),
        pool_size=1,
        pool_overflow_max=0,
        pool_wait_max=timedelta(milliseconds=50),
    )
    clock = SystemClock()
    async with open_engine(settings, application_name="tests") as engine:
        unit_of_work = PostgresUnitOfWork(
            engine, TABLES, source="modelyard/tests", clock=clock, ids=TimeOrderedIds(clock)
        )
        async with engine.connect():
            for _ in range(10):
                with pytest.raises(Unavailable):
                    async with unit_of_work(ALPHA):
                        pass
        async with unit_of_work(ALPHA) as tx:  # the breaker has stayed closed
            assert await tx.connection.scalar(sa.text("SELECT 1")) == 1


async def test_a_read_is_given_up_in_time_and_the_next_one_finds_the_database(store: Store) -> None:
    clock = SystemClock()
    unit_of_work = PostgresUnitOfWork(
        store.engine,
        TABLES,
        source="modelyard/tests",
        clock=clock,
        ids=TimeOrderedIds(clock),
        read_timeout=timedelta(milliseconds=200),
    )
    with pytest.raises(Unavailable):
        async with unit_of_work.reading(because="test") as connection:
            await connection.execute(sa.text("SELECT pg_sleep(60)"))

    async with store.unit_of_work.reading(because="test") as connection:
        assert await connection.scalar(sa.text("SELECT 1")) == 1
