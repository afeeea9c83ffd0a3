"""`EventConsumer` on both brokers: every record comes to an end, in order."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

from typing_extensions import override

from services.chassis.errors import Conflict, FailedPrecondition
from services.chassis.events.consumer import Backoff, EventConsumer, Handler
from services.chassis.events.envelope import Event
from services.chassis.events.ports import DuplicateEvent, ReceivedRecord, Record
from tests.contract.events.brokers import Broker, an_event, given, polled, until

SHORT = Backoff(first=timedelta(milliseconds=1), longest=timedelta(milliseconds=5))


class NoticedStop(asyncio.Event):
    """Tells when the consumer, which looks after each poll, has seen that it is to stop."""

    def __init__(self, on_seen: Callable[[], None]) -> None:
        super().__init__()
        self._on_seen = on_seen

    @override
    def is_set(self) -> bool:
        if is_set := super().is_set():
            self._on_seen()
        return is_set


@asynccontextmanager
async def consuming(
    broker: Broker,
    topic: str,
    dead: str,
    handlers: Mapping[str, Handler],
    *,
    on_stop_seen: Callable[[], None] = lambda: None,
) -> AsyncIterator[None]:
    """Run a consumer of the group `readers` for the time of the block, and stop it in order."""
    stopping = NoticedStop(on_stop_seen)
    async with (
        broker.open_producer() as producer,
        broker.join("readers", topic) as subscription,
        asyncio.TaskGroup() as tasks,
    ):
        consumer = EventConsumer(
            subscription,
            handlers,
            dead_letters=producer,
            dead_letter_topic=dead,
            service="test",
            group="readers",
            backoff=SHORT,
        )
        tasks.create_task(consumer.run(stopping))
        try:
            yield
        finally:
            stopping.set()


async def remaining(broker: Broker, topic: str) -> list[ReceivedRecord]:
    """Return what the group would read next, once something new has been sent to each key."""
    async with broker.join("readers", topic) as member:
        return await polled(member, 1)


async def test_events_are_handled_in_order_and_not_again(broker: Broker) -> None:
    topic, dead = await broker.new_topic(partition_count=1), await broker.new_topic()
    await given(broker, [an_event(topic, number) for number in range(20)])
    seen: list[Event] = []

    async def handle(event: Event) -> None:
        seen.append(event)

    async with consuming(broker, topic, dead, {"a.known.v1": handle}):
        await until(lambda: len(seen) == 20)
    assert [event.id for event in seen] == [f"e{number}" for number in range(20)]
    assert (seen[3].topic, seen[3].partition, seen[3].offset) == (topic, 0, 3)

    await given(broker, [an_event(topic, 20)])
    (next_record,) = await remaining(broker, topic)
    assert next_record.offset == 20


async def test_a_transient_failure_stops_its_partition_alone(broker: Broker) -> None:
    topic, dead = await broker.new_topic(partition_count=4), await broker.new_topic()
    keys = [f"job_{number}" for number in range(12)]
    await given(broker, [an_event(topic, n, key=key) for n in range(3) for key in keys])
    broken = asyncio.Event()
    seen: dict[str, list[str]] = {key: [] for key in keys}
    tries = 0
    partitions: dict[str, int] = {}

    async def handle(event: Event) -> None:
        nonlocal tries
        partitions[event.key] = event.partition
        if event.key == "job_0" and not broken.is_set():
            tries += 1
            raise Conflict("job", event.key)
        seen[event.key].append(event.id)

    async with consuming(broker, topic, dead, {"a.known.v1": handle}):
        await until(lambda: tries >= 3)
        await until(
            lambda: (
                all(
                    len(seen[key]) == 3
                    for key in keys
                    if partitions.get(key, partitions["job_0"]) != partitions["job_0"]
                )
                and len(partitions) > 1
            )
        )
        assert seen["job_0"] == []
        broken.set()
        await until(lambda: all(len(ids) == 3 for ids in seen.values()))

    assert all(ids == ["e0", "e1", "e2"] for ids in seen.values())


async def test_what_can_never_be_handled_becomes_a_dead_letter(broker: Broker) -> None:
    topic, dead = await broker.new_topic(partition_count=1), await broker.new_topic()
    garbage = Record(topic, b"k", b"what is this", (("some", "thïng".encode()),))
    await given(broker, [garbage, an_event(topic, 1), an_event(topic, 2)])
    seen: list[str] = []

    async def handle(event: Event) -> None:
        if event.id == "e1":
            raise FailedPrecondition("no such state")
        seen.append(event.id)

    async with consuming(broker, topic, dead, {"a.known.v1": handle}):
        await until(lambda: seen == ["e2"])
    async with broker.join("people", dead) as member:
        letters = await polled(member, 2)

    by_offset = {dict(letter.headers)["dead_letter_offset"]: letter for letter in letters}
    undecodable, refused = by_offset[b"0"], by_offset[b"1"]
    assert (undecodable.key, undecodable.value) == (garbage.key, garbage.value)
    assert undecodable.headers[:1] == garbage.headers
    assert dict(undecodable.headers)["dead_letter_reason"] == b"UNDECODABLE"
    assert dict(undecodable.headers)["dead_letter_exception"] == b"Undecodable"
    headers = dict(refused.headers)
    assert headers["ce_id"] == b"e1"
    assert headers["dead_letter_topic"] == topic.encode()
    assert headers["dead_letter_partition"] == b"0"
    assert headers["dead_letter_reason"] == b"FAILED_PRECONDITION"
    assert headers["dead_letter_exception"] == b"FailedPrecondition"


async def test_a_bug_is_tried_a_few_times_and_then_becomes_a_dead_letter(broker: Broker) -> None:
    topic, dead = await broker.new_topic(partition_count=1), await broker.new_topic()
    await given(broker, [an_event(topic, 1), an_event(topic, 2)])
    tries: Counter[str] = Counter()

    async def handle(event: Event) -> None:
        tries[event.id] += 1
        if event.id == "e1":
            raise KeyError("secret")

    async with consuming(broker, topic, dead, {"a.known.v1": handle}):
        await until(lambda: tries["e2"] == 1)
    async with broker.join("people", dead) as member:
        (letter,) = await polled(member, 1)

    assert tries["e1"] == 5
    headers = dict(letter.headers)
    assert headers["dead_letter_reason"] == b"INTERNAL"
    assert headers["dead_letter_exception"] == b"KeyError"
    assert headers["dead_letter_error_id"]
    assert b"secret" not in b"".join(value or b"" for _, value in letter.headers)


async def test_duplicates_unknown_types_and_tombstones_are_passed_by(broker: Broker) -> None:
    topic, dead = await broker.new_topic(partition_count=1), await broker.new_topic()
    await given(
        broker,
        [
            an_event(topic, 0, type_="from.a.newer.producer.v2"),
            Record(topic, b"job_1", None),
            an_event(topic, 1),
            an_event(topic, 2),
        ],
    )
    seen: list[str] = []

    async def handle(event: Event) -> None:
        seen.append(event.id)
        if event.id == "e1":
            raise DuplicateEvent("readers", event.id)

    async with consuming(broker, topic, dead, {"a.known.v1": handle}):
        await until(lambda: seen == ["e1", "e2"])

    await given(broker, [an_event(topic, 3)])
    (next_record,) = await remaining(broker, topic)
    assert next_record.offset == 4


async def test_stopping_finishes_the_event_in_hand_and_leaves_the_rest(broker: Broker) -> None:
    topic, dead = await broker.new_topic(partition_count=1), await broker.new_topic()
    await given(broker, [an_event(topic, number) for number in range(3)])
    begun, go_on = asyncio.Event(), asyncio.Event()
    finished: list[str] = []

    async def handle(event: Event) -> None:
        begun.set()
        await go_on.wait()
        finished.append(event.id)

    async with consuming(broker, topic, dead, {"a.known.v1": handle}, on_stop_seen=go_on.set):
        await begun.wait()
        assert finished == []
    assert finished == ["e0"]
    records = await remaining(broker, topic)
    assert records[0].offset == 1


async def test_two_consumers_of_a_group_handle_every_event_once(broker: Broker) -> None:
    topic, dead = await broker.new_topic(partition_count=4), await broker.new_topic()
    keys = [f"job_{number}" for number in range(20)]
    seen: Counter[tuple[str, str]] = Counter()
    seen_in_inbox: set[tuple[str, str]] = set()

    async def handle(event: Event) -> None:
        if (event.key, event.id) in seen_in_inbox:
            raise DuplicateEvent("readers", event.id)
        seen_in_inbox.add((event.key, event.id))
        seen[event.key, event.id] += 1

    async with consuming(broker, topic, dead, {"a.known.v1": handle}):
        await given(broker, [an_event(topic, 0, key=key) for key in keys])
        await until(lambda: len(seen) == 20)
        async with consuming(broker, topic, dead, {"a.known.v1": handle}):
            await given(broker, [an_event(topic, 1, key=key) for key in keys])
            await until(lambda: len(seen) == 40)
        await given(broker, [an_event(topic, 2, key=key) for key in keys])
        await until(lambda: len(seen) == 60)
    assert set(seen.values()) == {1}
