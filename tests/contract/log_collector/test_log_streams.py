"""What a repository of log streams promises, in memory and on PostgreSQL."""

from dataclasses import replace

import pytest

from services.chassis.errors import Conflict
from services.chassis.events.ports import DuplicateEvent
from services.chassis.tenancy import TenantId
from services.log_collector.domain.log_stream import LogStream, StreamState
from services.log_collector.use_cases.ports import UnitOfWork
from tests.unit.log_collector.builders import NOW, a_stream

ACME, OTHER = TenantId("acme"), TenantId("other")


async def add(database: UnitOfWork, *streams: LogStream) -> None:
    for stream in streams:
        async with database(stream.tenant) as tx:
            await tx.streams.add(stream)


async def test_a_stream_comes_back_as_it_was_added_and_saved(database: UnitOfWork) -> None:
    stream = replace(a_stream(), traceparent=f"00-{'1' * 32}-{'2' * 16}-01")
    await add(database, stream)
    changed = replace(
        stream,
        state=StreamState.COMPLETED,
        opened_at=NOW,
        ended_at=NOW,
        is_end_seen=False,
        completed_at=NOW,
        record_count=2**40,
    )
    async with database(ACME) as tx:
        assert await tx.streams.find("att_1") == stream
        await tx.streams.save(changed)

    async with database(ACME) as tx:
        assert await tx.streams.find("att_1") == changed


async def test_another_tenants_streams_are_not_there(database: UnitOfWork) -> None:
    await add(database, a_stream())

    async with database(OTHER) as tx:
        assert await tx.streams.find("att_1") is None
        assert list(await tx.streams.of_owner("job_1")) == []
        assert await tx.streams.next_number("job_1") == 1


async def test_an_owners_streams_come_by_attempt_number(database: UnitOfWork) -> None:
    await add(
        database,
        a_stream(attempt_id="att_2", attempt_number=2),
        a_stream(attempt_id="att_1", attempt_number=1),
        a_stream(attempt_id="att_3", owner_id="job_2"),
    )

    async with database(ACME) as tx:
        found = await tx.streams.of_owner("job_1")
        assert [stream.attempt_id for stream in found] == ["att_1", "att_2"]
        assert await tx.streams.next_number("job_1") == 3


@pytest.mark.parametrize(
    "twin", [a_stream(attempt_number=2), a_stream(attempt_id="att_2")], ids=["attempt", "number"]
)
async def test_an_attempt_and_a_number_are_taken_once(
    database: UnitOfWork, twin: LogStream
) -> None:
    await add(database, a_stream())

    with pytest.raises(Conflict):
        await add(database, twin)


async def test_collected_streams_are_those_of_a_node_with_files_to_read(
    database: UnitOfWork,
) -> None:
    states = enumerate(StreamState)
    streams = [
        a_stream(attempt_id=f"att_{number}", attempt_number=number + 1, state=state)
        for number, state in states
    ]
    elsewhere = replace(a_stream(attempt_id="att_9", attempt_number=9), node_id="node-2")
    await add(database, *streams, elsewhere)

    async with database.system(because="containers of all tenants") as tx:
        here = await tx.streams.collected_on("node-1", limit=10)
        everywhere = await tx.streams.collected_on(None, limit=10)
        first = await tx.streams.collected_on(None, limit=1)

    assert [stream.state for stream in here] == [StreamState.OPENED, StreamState.ENDING]
    assert len(everywhere) == 3
    assert len(first) == 1


async def test_what_fails_leaves_nothing(database: UnitOfWork) -> None:
    async def fail() -> None:
        async with database(ACME) as tx:
            await tx.claim_event("evt_1")
            await tx.streams.add(a_stream())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    async with database(ACME) as tx:
        await tx.claim_event("evt_1")
        assert await tx.streams.find("att_1") is None


async def test_an_event_is_claimed_once(database: UnitOfWork) -> None:
    async with database(ACME) as tx:
        await tx.claim_event("evt_1")

    with pytest.raises(DuplicateEvent):
        async with database(ACME) as tx:
            await tx.claim_event("evt_1")
