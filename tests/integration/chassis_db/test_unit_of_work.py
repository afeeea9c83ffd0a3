"""One use case, one transaction: rows, events and the inbox commit together or not at all."""

import asyncio

import pytest
import sqlalchemy as sa
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy.exc import IntegrityError

from services.chassis.db.errors import TransactionAborted, unique_violation
from services.chassis.db.unit_of_work import Transaction
from services.chassis.errors import PayloadTooLarge, Unavailable
from services.chassis.events.ports import DuplicateEvent
from services.chassis.transaction_mark import in_transaction
from tests.integration.chassis_db.builders import ALPHA, BETA, an_event, eventually
from tests.integration.chassis_db.conftest import ACCOUNTS, Store

pytestmark = pytest.mark.integration


async def _insert_account(tx: Transaction, identity: str = "acc_1") -> None:
    await tx.connection.execute(sa.insert(ACCOUNTS).values(id=identity, version=1))


async def _count(store: Store, table: sa.Table) -> int:
    async with store.engine.connect() as connection:
        return int(await connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


async def test_unit_of_work_commits_rows_and_events_together_and_then_wakes(store: Store) -> None:
    calls: list[str] = []
    store.unit_of_work.add_listener(lambda: calls.append("woken"))

    async with store.unit_of_work(ALPHA) as tx:
        await _insert_account(tx)
        tx.emit(an_event())
        tx.on_commit(lambda: calls.append("committed"))
        assert tx.tenant == ALPHA
        assert calls == []

    assert calls == ["committed", "woken"]
    async with store.engine.connect() as connection:
        row = (await connection.execute(sa.select(store.tables.outbox))).one()
    assert await _count(store, ACCOUNTS) == 1
    assert (row.aggregateid, row.tenant, row.source) == ("acc_1", ALPHA, "modelyard/tests")
    assert row.id.startswith("evt_")
    assert row.time == tx.now
    assert row.published_at is None


async def test_a_store_is_idle_only_while_no_unit_of_work_is_open(store: Store) -> None:
    idle, is_open, let_go = store.unit_of_work.idle, asyncio.Event(), asyncio.Event()
    assert idle.is_set()

    async def longer() -> None:
        async with store.unit_of_work(ALPHA):
            is_open.set()
            await let_go.wait()

    async with asyncio.TaskGroup() as tasks:
        other = tasks.create_task(longer())
        await is_open.wait()
        with pytest.raises(RuntimeError, match="gone wrong"):
            async with store.unit_of_work(ALPHA):
                raise RuntimeError("gone wrong")
        assert not idle.is_set()
        let_go.set()
        await other
    assert idle.is_set()


async def test_unit_of_work_leaves_nothing_behind_when_the_block_raises(store: Store) -> None:
    calls: list[str] = []
    store.unit_of_work.add_listener(lambda: calls.append("woken"))

    async def work() -> None:
        async with store.unit_of_work(ALPHA) as tx:
            await _insert_account(tx)
            tx.emit(an_event())
            tx.on_commit(lambda: calls.append("committed"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await work()
    assert calls == []
    assert await _count(store, ACCOUNTS) == 0
    assert await _count(store, store.tables.outbox) == 0


async def test_unit_of_work_leaves_nothing_behind_when_its_task_is_cancelled(store: Store) -> None:
    written = asyncio.Event()

    async def work() -> None:
        async with store.unit_of_work(ALPHA) as tx:
            await _insert_account(tx)
            tx.emit(an_event())
            written.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work())
        await written.wait()
        task.cancel()

    assert await _count(store, ACCOUNTS) == 0
    assert await _count(store, store.tables.outbox) == 0


async def test_unit_of_work_is_marked_while_open_and_refuses_another_inside(store: Store) -> None:
    async with store.unit_of_work(ALPHA):
        assert in_transaction.get()
        with pytest.raises(AssertionError):
            async with store.unit_of_work(BETA):
                pass
    assert not in_transaction.get()


async def test_system_unit_of_work_has_no_tenant(store: Store) -> None:
    async with store.unit_of_work.system(because="a test spans tenants") as tx:
        assert tx.tenant is None


async def test_emit_refuses_an_event_that_no_record_could_carry(store: Store) -> None:
    with pytest.raises(PayloadTooLarge):
        async with store.unit_of_work(ALPHA) as tx:
            tx.emit(an_event(data=bytes(1_000_000)))


async def test_claim_event_refuses_the_second_delivery_for_the_same_consumer(store: Store) -> None:
    async def handle(consumer: str, effect: str) -> None:
        async with store.unit_of_work(ALPHA) as tx:
            await _insert_account(tx, effect)
            await tx.claim_event(consumer, "evt_1")

    await handle("register_outputs", "acc_1")
    await handle("count_usage", "acc_2")
    with pytest.raises(DuplicateEvent):
        await handle("count_usage", "acc_3")
    assert await _count(store, ACCOUNTS) == 2


async def test_claim_event_is_free_again_when_the_first_try_was_rolled_back(store: Store) -> None:
    async def fail() -> None:
        async with store.unit_of_work(ALPHA) as tx:
            await tx.claim_event("register_outputs", "evt_1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    async with store.unit_of_work(ALPHA) as tx:
        await tx.claim_event("register_outputs", "evt_1")


async def test_claim_event_waits_for_a_twin_and_then_is_a_duplicate(store: Store) -> None:
    claimed = asyncio.Event()

    async def second() -> None:
        await claimed.wait()
        with pytest.raises(DuplicateEvent):
            async with store.unit_of_work(ALPHA) as tx:
                await tx.claim_event("register_outputs", "evt_1")

    async with asyncio.TaskGroup() as tasks:
        twin = tasks.create_task(second())
        async with store.unit_of_work(ALPHA) as tx:
            await tx.claim_event("register_outputs", "evt_1")
            claimed.set()
            await eventually(lambda: _is_waiting(store))
            assert not twin.done()


async def _is_waiting(store: Store) -> bool:
    async with store.engine.connect() as connection:
        waiting = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return bool(await connection.scalar(waiting))


async def test_a_unique_violation_reaches_the_adapter_with_the_constraints_name(
    store: Store,
) -> None:
    async with store.unit_of_work(ALPHA) as tx:
        await _insert_account(tx)
    with pytest.raises(IntegrityError) as caught:
        async with store.unit_of_work(ALPHA) as tx:
            await _insert_account(tx)
    assert unique_violation(caught.value) == "pk_account"


async def test_a_statements_error_tells_none_of_its_values(store: Store) -> None:
    with pytest.raises(sa.exc.DBAPIError) as caught:
        async with store.unit_of_work(ALPHA) as tx:
            await _insert_account(tx, "a secret\0")
    assert "INSERT INTO account" in str(caught.value)
    assert "a secret" not in str(caught.value)


async def test_a_deadlock_ends_one_transaction_and_says_try_again(store: Store) -> None:
    async with store.unit_of_work(ALPHA) as tx:
        await _insert_account(tx, "acc_1")
        await _insert_account(tx, "acc_2")
    both_hold = asyncio.Barrier(2)

    async def change(first: str, second: str) -> str:
        try:
            async with store.unit_of_work(ALPHA) as tx:
                await tx.connection.execute(sa.text("SET LOCAL deadlock_timeout = '100ms'"))
                await _change(tx, first)
                await both_hold.wait()
                await _change(tx, second)
        except TransactionAborted:
            return "aborted"
        return "done"

    outcomes = await asyncio.gather(change("acc_1", "acc_2"), change("acc_2", "acc_1"))
    assert sorted(outcomes) == ["aborted", "done"]


async def _change(tx: Transaction, identity: str) -> None:
    await tx.connection.execute(
        sa.update(ACCOUNTS).where(ACCOUNTS.c.id == identity).values(version=ACCOUNTS.c.version + 1)
    )


async def test_a_statement_past_its_time_out_is_unavailable(store: Store) -> None:
    async def work() -> None:
        async with store.unit_of_work(ALPHA) as tx:
            await tx.connection.execute(sa.text("SET LOCAL statement_timeout = '50ms'"))
            await tx.connection.execute(sa.text("SELECT pg_sleep(20)"))

    with pytest.raises(Unavailable):
        await work()


async def test_a_bug_in_a_statement_stays_a_bug(store: Store) -> None:
    with pytest.raises(sa.exc.DBAPIError):
        async with store.unit_of_work(ALPHA) as tx:
            await tx.connection.execute(sa.text("SELECT 1 / 0"))


async def test_a_trace_shows_the_transaction_and_its_statements(
    store: Store, spans: InMemorySpanExporter
) -> None:
    with trace.get_tracer("test").start_as_current_span("request") as request:
        async with store.unit_of_work(ALPHA) as tx:
            await _insert_account(tx)
            tx.emit(an_event())

    finished = {span.name: span for span in spans.get_finished_spans()}
    transaction = finished["transaction"]
    assert transaction.parent is not None
    assert transaction.parent.span_id == request.get_span_context().span_id
    assert transaction.context is not None
    assert finished["INSERT"].parent is not None
    assert finished["INSERT"].parent.span_id == transaction.context.span_id
    # The event is a child of the span under which its fact came to be.
    async with store.engine.connect() as connection:
        traceparent = await connection.scalar(sa.select(store.tables.outbox.c.traceparent))
    assert traceparent is not None
    assert f"{transaction.context.trace_id:032x}" in traceparent
    assert f"{transaction.context.span_id:016x}" in traceparent


async def test_work_that_is_part_of_no_trace_begins_none(
    store: Store, spans: InMemorySpanExporter
) -> None:
    async with store.unit_of_work.system(because="a loop looks around") as tx:
        await tx.connection.execute(sa.select(ACCOUNTS))
    assert spans.get_finished_spans() == ()
