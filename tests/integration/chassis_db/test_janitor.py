"""Old rows go, a bounded number at a time; young ones and unpublished ones stay."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from services.chassis.db.idempotency import remember
from services.chassis.db.janitor import Janitor
from tests.integration.chassis_db.builders import ALPHA, an_event, eventually, running
from tests.integration.chassis_db.conftest import Store

pytestmark = pytest.mark.integration

DAY = timedelta(days=1)


async def _count(store: Store, table: sa.Table) -> int:
    async with store.engine.connect() as connection:
        return int(await connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


async def _age(store: Store, column: sa.Column[object], by: timedelta, *, rows: int) -> None:
    """Make the first so many rows of a table older than they are."""
    table = column.table
    first = sa.select(*table.primary_key.columns).order_by(*table.primary_key.columns).limit(rows)
    async with store.engine.begin() as connection:
        await connection.execute(
            sa.update(table)
            .where(sa.tuple_(*table.primary_key.columns).in_(first))
            .values({column.name: sa.func.clock_timestamp() - by})
        )


async def test_janitor_deletes_what_has_had_its_time(store: Store) -> None:
    tables = store.tables
    async with store.unit_of_work(ALPHA) as tx:
        for number in range(5):
            tx.emit(an_event())
            await tx.claim_event("consumer", f"evt_{number}")
            await remember(tx, method="m", key=f"key-{number}", request_hash=b"")
    await _age(store, tables.outbox.c.published_at, 3 * DAY, rows=3)
    await _age(store, tables.inbox.c.claimed_at, 40 * DAY, rows=2)
    await _age(store, tables.idempotency.c.created_at, 2 * DAY, rows=1)

    assert await Janitor(store.engine, tables).delete_expired() == 6

    assert await _count(store, tables.outbox) == 2
    assert await _count(store, tables.inbox) == 3
    assert await _count(store, tables.idempotency) == 4


async def test_an_unpublished_event_is_never_deleted(store: Store) -> None:
    async with store.unit_of_work(ALPHA) as tx:
        tx.emit(an_event())
    async with store.engine.begin() as connection:
        await connection.execute(
            sa.update(store.tables.outbox).values(time=sa.func.now() - 365 * DAY)
        )
    assert await Janitor(store.engine, store.tables).delete_expired() == 0
    assert await _count(store, store.tables.outbox) == 1


async def test_a_pass_is_bounded_and_the_next_goes_on(store: Store) -> None:
    async with store.unit_of_work(ALPHA) as tx:
        for number in range(10):
            await tx.claim_event("consumer", f"evt_{number}")
    await _age(store, store.tables.inbox.c.claimed_at, 40 * DAY, rows=10)
    janitor = Janitor(
        store.engine,
        store.tables,
        interval=timedelta(milliseconds=10),
        batch_rows_max=2,
        batches_per_pass_max=2,
    )
    assert await janitor.delete_expired() == 4

    async def empty() -> bool:
        return await _count(store, store.tables.inbox) == 0

    async with running(janitor.run):
        await eventually(empty)
