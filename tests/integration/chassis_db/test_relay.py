"""Events leave in order, none is skipped, and each at least once."""

import asyncio
from collections.abc import Collection, Sequence
from datetime import timedelta

import pytest
import sqlalchemy as sa
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY
from typing_extensions import override

from services.chassis.clock import Clock, SystemClock
from services.chassis.db.lease import PostgresLeases
from services.chassis.db.outbox import PostgresOutbox
from services.chassis.db.relay import Outbox, Relay, Rows
from services.chassis.errors import PayloadTooLarge, Unavailable
from services.chassis.events.ports import Record
from tests.integration.chassis_db.builders import (
    ALPHA,
    TOPIC,
    FakeProducer,
    ManualClock,
    an_event,
    eventually,
    header,
    running,
)
from tests.integration.chassis_db.conftest import ACCOUNTS, Store

pytestmark = pytest.mark.integration

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def _relay(
    store: Store,
    producer: FakeProducer,
    *,
    holder: str = "a",
    clock: Clock | None = None,
    batch_rows_max: int = 500,
    lease_ttl: timedelta = timedelta(seconds=10),
    outbox: Outbox | None = None,
) -> Relay:
    return Relay(
        outbox or PostgresOutbox(store.engine, store.tables),
        PostgresLeases(store.engine, store.tables),
        producer,
        holder=holder,
        clock=clock or SystemClock(),
        idle=store.unit_of_work.idle,
        batch_rows_max=batch_rows_max,
        poll_interval=timedelta(milliseconds=50),
        lease_ttl=lease_ttl,
    )


async def _lead(relay: Relay) -> None:
    """Let the relay hold every shard, without its loop."""
    for keeper in relay.keepers.values():
        await keeper.acquire()


async def _emit(store: Store, values: Sequence[int], key: str = "acc_1") -> None:
    async with store.unit_of_work(ALPHA) as tx:
        for value in values:
            tx.emit(an_event(key, data=str(value).encode()))


async def _unpublished(store: Store) -> int:
    outbox = store.tables.outbox
    statement = sa.select(sa.func.count()).where(outbox.c.published_at.is_(None))
    async with store.engine.connect() as connection:
        return int(await connection.scalar(statement) or 0)


async def _expire_leases(store: Store) -> None:
    async with store.engine.begin() as connection:
        await connection.execute(
            sa.update(store.tables.lease).values(
                expires_at=sa.func.clock_timestamp() - timedelta(seconds=1)
            )
        )


async def test_relay_sends_in_order_with_the_facts_own_trace_and_marks(store: Store) -> None:
    producer = FakeProducer()
    relay = _relay(store, producer)
    await _lead(relay)
    async with store.unit_of_work(ALPHA) as tx:
        tx.emit(an_event(data=b"1", traceparent=TRACEPARENT))
        tx.emit(an_event(data=b"2"))

    await relay.relay_once()

    assert producer.values() == [b"1", b"2"]
    record = producer.kept[0]
    assert record.topic == TOPIC
    assert header(record, "ce_source") == "modelyard/tests"
    assert header(record, "ce_tenant") == ALPHA
    assert header(record, "traceparent") == TRACEPARENT
    assert await _unpublished(store) == 0
    await relay.relay_once()
    assert len(producer.kept) == 2


async def test_relays_own_span_is_a_trace_of_its_own_that_links_to_the_facts(
    store: Store, spans: InMemorySpanExporter
) -> None:
    relay = _relay(store, FakeProducer())
    await _lead(relay)
    async with store.unit_of_work(ALPHA) as tx:
        tx.emit(an_event(traceparent=TRACEPARENT))

    with trace.get_tracer("test").start_as_current_span("whatever woke the relay"):
        await relay.relay_once()

    (sent,) = [span for span in spans.get_finished_spans() if span.name == "send outbox"]
    assert sent.parent is None
    assert [f"{link.context.trace_id:032x}" for link in sent.links] == [TRACEPARENT.split("-")[1]]


async def test_relay_sends_nothing_without_a_lease(store: Store) -> None:
    producer = FakeProducer()
    await _emit(store, [1])
    assert not await _relay(store, producer).relay_once()
    assert producer.kept == []


class SlowToRead(PostgresOutbox):
    """A batch takes a minute to come."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        super().__init__(store.engine, store.tables)
        self._clock = clock

    @override
    async def unpublished(
        self, shards: Collection[int], *, stopped: Collection[str], rows_max: int
    ) -> Rows:
        rows = await super().unpublished(shards, stopped=stopped, rows_max=rows_max)
        self._clock.advance(60)
        return rows


async def test_relay_sends_nothing_whose_lease_ran_out_while_it_was_read(store: Store) -> None:
    producer, clock = FakeProducer(), ManualClock()
    await _emit(store, [1])
    relay = _relay(store, producer, clock=clock, outbox=SlowToRead(store, clock))
    await _lead(relay)

    assert not await relay.relay_once()

    assert producer.kept == []
    assert await _unpublished(store) == 1


async def test_relay_sends_again_after_a_crash_between_send_and_mark(store: Store) -> None:
    producer = FakeProducer()
    await _emit(store, [1, 2])
    crashed = _relay(store, producer, holder="a")
    await _lead(crashed)
    producer.open_gate.clear()
    async with asyncio.TaskGroup() as tasks:
        passing = tasks.create_task(crashed.relay_once())
        await producer.arrived.wait()
        passing.cancel()  # what was kept by the broker is never marked
    assert await _unpublished(store) == 2

    producer.open_gate.set()
    await _expire_leases(store)
    heir = _relay(store, producer, holder="b")
    await _lead(heir)
    await heir.relay_once()

    assert producer.values() == [b"1", b"2", b"1", b"2"]
    assert producer.values_once() == [b"1", b"2"]
    assert await _unpublished(store) == 0


async def test_relay_may_not_mark_what_another_holds_by_then(store: Store) -> None:
    slow_producer, producer = FakeProducer(), FakeProducer()
    await _emit(store, [1])
    slow, heir = _relay(store, slow_producer, holder="a"), _relay(store, producer, holder="b")
    await _lead(slow)
    slow_producer.open_gate.clear()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(slow.relay_once())
        await slow_producer.arrived.wait()
        await _expire_leases(store)
        await _lead(heir)
        slow_producer.open_gate.set()
    assert await _unpublished(store) == 1  # sent, but the mark was refused

    await heir.relay_once()
    assert producer.values() == [b"1"]
    assert await _unpublished(store) == 0


async def test_relay_that_was_paused_past_its_lease_does_not_begin_a_batch(store: Store) -> None:
    clock, producer = ManualClock(), FakeProducer()
    relay = _relay(store, producer, clock=clock)
    await _lead(relay)
    await _emit(store, [1])
    clock.advance(60)
    assert not await relay.relay_once()
    assert producer.kept == []


async def test_a_refused_row_stops_its_key_and_no_other(store: Store) -> None:
    def refuse(record: Record) -> Exception | None:
        return PayloadTooLarge("record", bytes_max=1) if record.value == b"2" else None

    clock, producer = ManualClock(), FakeProducer(refuse=refuse)
    relay = _relay(store, producer, clock=clock)
    await _lead(relay)
    await _emit(store, [1, 2, 3], key="acc_1")
    await _emit(store, [7, 8], key="acc_2")

    await relay.relay_once()
    assert producer.values("acc_1") == [b"1"]
    assert producer.values("acc_2") == [b"7", b"8"]
    await _emit(store, [4], key="acc_1")
    await relay.relay_once()  # too early to try the key again: nothing may overtake
    assert producer.values("acc_1") == [b"1"]

    producer.refuse = lambda _: None
    clock.advance(1)
    await relay.relay_once()
    assert producer.values("acc_1") == [b"1", b"2", b"3", b"4"]
    assert await _unpublished(store) == 0


async def test_a_stopped_key_is_forgotten_when_its_row_is_gone(store: Store) -> None:
    refused = PayloadTooLarge("record", bytes_max=1)
    clock, producer = ManualClock(), FakeProducer(refuse=lambda _: refused)
    relay = _relay(store, producer, clock=clock)
    await _lead(relay)
    await _emit(store, [1])
    await relay.relay_once()
    assert REGISTRY.get_sample_value("modelyard_outbox_stopped_keys") == 1

    async with store.engine.begin() as connection:  # as the runbook says
        await connection.execute(sa.delete(store.tables.outbox))
    clock.advance(1)
    await relay.relay_once()
    assert REGISTRY.get_sample_value("modelyard_outbox_stopped_keys") == 0
    assert REGISTRY.get_sample_value("modelyard_outbox_oldest_unpublished_seconds") == 0


async def test_nothing_is_marked_or_put_off_while_the_broker_takes_nothing(store: Store) -> None:
    producer = FakeProducer(refuse=lambda _: Unavailable("broker"))
    relay = _relay(store, producer)
    await _lead(relay)
    await _emit(store, [1])
    with pytest.raises(Unavailable):
        await relay.relay_once()
    assert await _unpublished(store) == 1

    producer.refuse = lambda _: None
    await relay.relay_once()
    assert await _unpublished(store) == 0


async def test_a_long_transactions_events_are_not_skipped(store: Store) -> None:
    producer = FakeProducer()
    relay = _relay(store, producer)
    await _lead(relay)
    numbered, commit = asyncio.Event(), asyncio.Event()

    async def long_transaction() -> None:
        async with store.engine.begin() as connection:
            # As written by a unit of work whose commit takes its time: numbered, not yet visible.
            await connection.execute(
                sa.insert(store.tables.outbox).values(
                    id="evt_early", shard=0, aggregatetype=TOPIC, aggregateid="acc_9", type="t",
                    payload=b"early", source="s", subject="s", tenant=ALPHA, dataschema="d",
                    time=sa.func.now(),
                )
            )  # fmt: skip
            numbered.set()
            await commit.wait()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(long_transaction())
        await numbered.wait()
        await _emit(store, [1])
        await relay.relay_once()
        assert producer.values() == [b"1"]
        commit.set()

    await relay.relay_once()
    assert producer.values("acc_9") == [b"early"]


async def test_each_keys_events_keep_their_order_under_concurrent_writers(store: Store) -> None:
    keys, writers_per_key, changes = ("acc_1", "acc_2", "acc_3"), 4, 10
    async with store.unit_of_work(ALPHA) as tx:
        for key in keys:
            await tx.connection.execute(sa.insert(ACCOUNTS).values(id=key, version=0))

    async def write(key: str) -> None:
        for _ in range(changes):
            async with store.unit_of_work(ALPHA) as tx:
                version = await tx.connection.scalar(
                    sa.update(ACCOUNTS)
                    .where(ACCOUNTS.c.id == key)
                    .values(version=ACCOUNTS.c.version + 1)
                    .returning(ACCOUNTS.c.version)
                )
                tx.emit(an_event(key, data=str(version).encode()))

    producer = FakeProducer()
    relay = _relay(store, producer, batch_rows_max=7)
    store.unit_of_work.add_listener(relay.wake)
    async with running(relay.run):
        async with asyncio.TaskGroup() as tasks:
            for key in keys:
                for _ in range(writers_per_key):
                    tasks.create_task(write(key))

        async def all_sent() -> bool:
            return await _unpublished(store) == 0

        await eventually(all_sent)
    in_order = [str(n).encode() for n in range(1, writers_per_key * changes + 1)]
    assert [producer.values(key) for key in keys] == [in_order] * len(keys)


async def test_a_running_relay_is_woken_by_commits_and_finds_those_of_others(store: Store) -> None:
    producer = FakeProducer()
    relay = _relay(store, producer)
    store.unit_of_work.add_listener(relay.wake)

    async def all_sent() -> bool:
        return await _unpublished(store) == 0

    async with running(relay.run):
        await _emit(store, [1])
        await eventually(all_sent)
        async with store.engine.begin() as connection:  # another process's commit: no wake-up
            row = (await connection.execute(sa.select(store.tables.outbox))).one()
            copy = {k: v for k, v in row._asdict().items() if k not in {"seq", "published_at"}}
            await connection.execute(
                sa.insert(store.tables.outbox).values(copy | {"id": "evt_2", "payload": b"2"})
            )
        await eventually(all_sent)
    assert producer.values() == [b"1", b"2"]


async def test_a_relay_lets_open_transactions_pass_but_not_for_ever(store: Store) -> None:
    producer = FakeProducer()
    relay = _relay(store, producer)
    store.unit_of_work.add_listener(relay.wake)

    is_open, is_over = asyncio.Event(), asyncio.Event()

    async def longer() -> None:
        async with store.unit_of_work.system(because="it takes long"):
            is_open.set()
            await is_over.wait()

    async def is_sent() -> bool:
        return producer.values() == [b"1"]

    async with running(relay.run), asyncio.TaskGroup() as tasks:
        tasks.create_task(longer())
        await is_open.wait()
        await _emit(store, [1])
        await eventually(is_sent)
        is_over.set()


async def test_a_stopping_relay_finishes_its_batch_and_gives_its_shards_back(store: Store) -> None:
    producer = FakeProducer()
    producer.open_gate.clear()
    relay = _relay(store, producer)
    async with asyncio.TaskGroup() as tasks:
        stopping = asyncio.Event()
        tasks.create_task(relay.run(stopping))
        await _emit(store, [1])
        await producer.arrived.wait()
        stopping.set()
        await _emit(store, [2])  # committed by the last request while the batch was on its way
        producer.open_gate.set()

    assert producer.values() == [b"1", b"2"]
    assert await _unpublished(store) == 0
    heir = _relay(store, producer, holder="b")
    await _lead(heir)
    assert all(keeper.is_held() for keeper in heir.keepers.values())


async def test_two_running_relays_send_everything_once_while_both_live(store: Store) -> None:
    producer = FakeProducer()
    first, second = _relay(store, producer, holder="a"), _relay(store, producer, holder="b")
    for relay in (first, second):
        store.unit_of_work.add_listener(relay.wake)

    async def all_sent() -> bool:
        return await _unpublished(store) == 0

    async with running(first.run), running(second.run):
        for value in range(20):
            await _emit(store, [value], key=f"acc_{value}")
        await eventually(all_sent)
    assert len(producer.kept) == 20
