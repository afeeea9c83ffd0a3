"""The consumer's rules that need no real broker: bounds, outages, spans, back-off."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from services.chassis.errors import Conflict, FailedPrecondition
from services.chassis.events.consumer import Backoff, EventConsumer, Handler
from services.chassis.events.envelope import Event, NewEvent, record_of
from services.chassis.events.memory_broker import MemoryBroker
from services.chassis.events.ports import Record
from services.chassis.tenancy import TenantId
from tests.contract.events.brokers import AT, an_event, until

TOPIC, DEAD = "jobs", "dead"
TRACE = "0af7651916cd43dd8448eb211c80319c"
SHORT = Backoff(first=timedelta(milliseconds=1), longest=timedelta(milliseconds=2))


@pytest.fixture
async def broker() -> MemoryBroker:
    return MemoryBroker(partition_count=1)


@asynccontextmanager
async def consuming(broker: MemoryBroker, handlers: Mapping[str, Handler]) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    async with (
        broker.open_producer(ack_wait_max=timedelta(milliseconds=10)) as producer,
        broker.open_subscription(group="readers", topics=[TOPIC]) as subscription,
        asyncio.TaskGroup() as tasks,
    ):
        consumer = EventConsumer(
            subscription,
            handlers,
            dead_letters=producer,
            dead_letter_topic=DEAD,
            service="test",
            group="readers",
            backoff=SHORT,
        )
        tasks.create_task(consumer.run(stopping))
        try:
            yield
        finally:
            stopping.set()


async def position(broker: MemoryBroker) -> int:
    """Return the offset that the group would go on from."""
    async with broker.open_subscription(group="readers", topics=[TOPIC]) as member:
        await member.poll(records_max=0, wait_s=0)
        (offset,) = member.positions.values()
        return offset


async def test_a_slow_handler_pauses_its_partition_before_the_buffer_grows(
    broker: MemoryBroker,
) -> None:
    for number in range(5_000):
        broker.append(an_event(TOPIC, number))
    go_on = asyncio.Event()
    count = 0

    async def handle(event: Event) -> None:
        nonlocal count
        await go_on.wait()
        count += 1

    async with consuming(broker, {"a.known.v1": handle}):
        (member,) = broker.members("readers")
        await until(lambda: bool(member.paused))
        (read,) = member.positions.values()
        assert read <= 1_000
        go_on.set()
        await until(lambda: count == 5_000)
    assert await position(broker) == 5_000


async def test_the_position_waits_for_the_dead_letter_while_the_broker_takes_none(
    broker: MemoryBroker,
) -> None:
    broker.append(an_event(TOPIC, 1))
    handled = asyncio.Event()

    async def refuse(event: Event) -> None:
        broker.go_down()
        handled.set()
        raise FailedPrecondition("no such state")

    async with consuming(broker, {"a.known.v1": refuse}):
        await handled.wait()
    broker.come_back()
    assert broker.records(DEAD) == []
    assert await position(broker) == 0

    async with consuming(broker, {"a.known.v1": refuse}):
        await until(lambda: not broker.up.is_set())
        broker.come_back()
        await until(lambda: len(broker.records(DEAD)) == 1)
    assert await position(broker) == 1


async def test_a_handling_is_a_consumer_span_below_the_events_creation(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr("services.chassis.events.consumer.tracer", provider.get_tracer)
    event = NewEvent(
        topic=TOPIC,
        key="job_1",
        type="a.known.v1",
        subject="jobs/job_1",
        tenant=TenantId("acme"),
        data=b"",
        dataschema="modelyard.test.v1.Happened",
        traceparent=f"00-{TRACE}-b7ad6b7169203331-01",
    )
    broker.append(record_of(event, event_id="evt_1", source="/test", time=AT))
    tries = 0

    async def handle(event: Event) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Conflict("job", "job_1")

    async with consuming(broker, {"a.known.v1": handle}):
        await until(lambda: len(spans.get_finished_spans()) == 2)
    failed, done = spans.get_finished_spans()

    assert done.name == "process jobs"
    assert done.kind is SpanKind.CONSUMER
    assert done.context is not None
    assert done.parent is not None
    assert format(done.context.trace_id, "032x") == TRACE
    assert format(done.parent.span_id, "016x") == "b7ad6b7169203331"
    assert done.status.status_code is StatusCode.UNSET
    attributes = dict(done.attributes or {})
    assert attributes["messaging.destination.name"] == TOPIC
    assert attributes["messaging.operation.type"] == "process"
    assert attributes["messaging.message.id"] == "evt_1"
    assert attributes["messaging.kafka.offset"] == 0
    assert failed.status.status_code is StatusCode.ERROR
    assert dict(failed.attributes or {})["error.type"] == "Conflict"


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError()])
async def test_a_lost_connection_is_no_bug(broker: MemoryBroker, error: Exception) -> None:
    broker.append(an_event(TOPIC, 1))
    tries = 0

    async def handle(event: Event) -> None:
        nonlocal tries
        tries += 1
        if tries <= 10:
            raise error

    async with consuming(broker, {"a.known.v1": handle}):
        await until(lambda: tries == 11)
    assert broker.records(DEAD) == []


async def test_a_revoked_partition_is_let_go_in_the_middle_of_its_back_off(
    broker: MemoryBroker,
) -> None:
    broker.append(an_event(TOPIC, 1))
    tries = asyncio.Event()
    seen: list[str] = []

    async def fail(event: Event) -> None:
        tries.set()
        raise Conflict("job", event.key)

    async def handle(event: Event) -> None:
        seen.append(event.id)

    async with consuming(broker, {"a.known.v1": fail}):
        await tries.wait()
    async with consuming(broker, {"a.known.v1": handle}):
        await until(lambda: seen == ["e1"])


def test_pauses_double_up_to_their_bound_and_half_is_chance() -> None:
    least, most = Backoff(chance=lambda: 0.0), Backoff(chance=lambda: 1.0)

    assert [most.pause_s(n) for n in (1, 2, 3)] == pytest.approx([0.2, 0.4, 0.8])
    assert most.pause_s(1_000) == 10.0
    assert least.pause_s(1) == pytest.approx(0.1)


def test_a_record_without_a_key_or_value_has_no_size() -> None:
    broker = MemoryBroker()
    broker.append(Record(TOPIC, b"", None))

    assert broker.records(TOPIC)[0].size_bytes == 0


async def test_what_is_late_of_a_topic_that_was_made_again_moves_no_position_in_the_new_one(
    broker: MemoryBroker,
) -> None:
    async with broker.open_producer() as producer:
        await producer.send_all([an_event(TOPIC, number, key="old") for number in range(3)])
        is_late, go_on, is_tried = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def handle(event: Event) -> None:
            if event.key == "new":
                is_tried.set()
                raise Conflict("job", event.key)
            if event.id == "e2":
                is_late.set()
                await go_on.wait()

        async with consuming(broker, {"a.known.v1": handle}):
            await is_late.wait()
            broker.delete_topic(TOPIC)
            broker.create_topic(TOPIC, partition_count=1)
            await producer.send_all([an_event(TOPIC, number, key="new") for number in range(9)])
            await until(lambda: bool(broker.members("readers")[0].positions.values()))
            go_on.set()
            await is_tried.wait()
    assert await position(broker) == 0
