"""A purged tenant's output: rows and files go, and nobody else's."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.clock import SystemClock
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.errors import Unavailable
from services.chassis.ids import TimeOrderedIds
from services.chassis.tenancy import PurgedTenants, TenantId
from services.log_collector.adapters.postgres.tables import chassis
from services.log_collector.adapters.postgres.unit_of_work import LogUnitOfWork
from services.log_collector.adapters.segments.store import SegmentStore, open_segment_store
from services.log_collector.domain.log_stream import LogStream, StreamState
from services.log_collector.entrypoints.protobuf import event_of
from services.log_collector.use_cases.ports import Publishable
from services.log_collector.use_cases.purge_streams import PurgeStreams
from tests.unit.log_collector.builders import a_block, a_stream

ACME, UMBRELLA = TenantId("acme"), TenantId("umbrella")
CLOCK = SystemClock()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SegmentStore]:
    async with open_segment_store(tmp_path, segment_bytes_max=4096) as store:
        yield store


@pytest.fixture
def database(engine: AsyncEngine) -> LogUnitOfWork:
    return LogUnitOfWork(
        PostgresUnitOfWork(
            engine, chassis, source="/log-collector", clock=CLOCK, ids=TimeOrderedIds(CLOCK)
        ),
        event_of,
    )


class Purge:
    """A process's purge, two streams a pass, and what there is to see."""

    def __init__(self, database: LogUnitOfWork, store: SegmentStore, root: Path) -> None:
        self.database, self.store, self.root = database, store, root
        self.purged = PurgedTenants()
        self.run = PurgeStreams(database, store, self.purged, node_id=None, streams_per_pass_max=2)

    async def add(
        self, tenant: TenantId, number: int, state: StreamState, *, text: str | None = "a secret"
    ) -> LogStream:
        """Store a stream, with a line of output unless there is none yet."""
        stream = replace(
            a_stream(), tenant=tenant, attempt_id=f"{tenant}_{number}", attempt_number=number
        )
        stream = replace(stream, state=state)
        async with self.database(tenant) as tx:
            await tx.streams.add(stream)
        if text is not None:
            await self.write(stream, text)
        return stream

    async def write(self, stream: LogStream, text: str) -> None:
        async with self.store.open_writer(stream) as writer:
            await writer.append(a_block(1, [text]))

    async def move(self, stream: LogStream, state: StreamState) -> None:
        async with self.database(stream.tenant) as tx:
            await tx.streams.save(replace(stream, state=state))

    async def rows(self) -> list[str]:
        found = []
        for tenant in (ACME, UMBRELLA):
            async with self.database(tenant) as tx:
                found += [stream.attempt_id for stream in await tx.streams.of_owner("job_1")]
        return found

    def folders(self) -> list[str]:
        """Return what holds a stream's files, whatever it is called."""
        return sorted(
            {path.parent.name for path in self.root.rglob("*") if path.is_file()} - {self.root.name}
        )

    async def to_the_end(self) -> int:
        """Run passes until one finds nothing; return how many found something."""
        for count in range(20):
            if not await self.run():
                return count
        raise AssertionError("a purge comes to an end")


@pytest.fixture
def purge(database: LogUnitOfWork, store: SegmentStore, tmp_path: Path) -> Purge:
    return Purge(database, store, tmp_path)


async def test_rows_and_files_of_a_purged_tenant_go_and_nobody_elses(purge: Purge) -> None:
    for number in range(1, 4):
        await purge.add(ACME, number, StreamState.COMPLETED)
    await purge.add(ACME, 4, StreamState.EXPECTED, text=None)
    await purge.add(UMBRELLA, 1, StreamState.COMPLETED)
    assert await purge.to_the_end() == 0

    purge.purged.add(ACME)
    assert await purge.to_the_end() == 2
    assert await purge.rows() == ["umbrella_1"]
    assert purge.folders() == ["umbrella_1"]


async def test_what_is_collected_stays_until_it_is_complete(purge: Purge) -> None:
    stream = await purge.add(ACME, 1, StreamState.OPENED)
    purge.purged.add(ACME)
    assert await purge.to_the_end() == 0
    await purge.move(stream, StreamState.ENDING)
    assert await purge.to_the_end() == 0
    assert purge.folders() == ["acme_1"]
    await purge.move(stream, StreamState.COMPLETED)
    assert await purge.to_the_end() == 1
    assert (await purge.rows(), purge.folders()) == ([], [])


async def test_a_stream_that_opens_as_it_is_purged_is_collected_to_its_end(
    purge: Purge, monkeypatch: pytest.MonkeyPatch
) -> None:
    purge.purged.add(ACME)
    await purge.add(ACME, 1, StreamState.COMPLETED)
    expected = await purge.add(ACME, 2, StreamState.EXPECTED, text=None)
    delete = SegmentStore.delete

    async def delete_as_the_other_opens(store: SegmentStore, attempt_id: str) -> None:
        await purge.move(expected, StreamState.OPENED)
        await purge.write(expected, "a secret")
        await delete(store, attempt_id)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentStore, "delete", delete_as_the_other_opens)
        assert await purge.run() == 1
    assert (await purge.rows(), purge.folders()) == (["acme_2"], ["acme_2"])

    await purge.move(expected, StreamState.COMPLETED)
    assert await purge.to_the_end() == 1
    assert (await purge.rows(), purge.folders()) == ([], [])


async def test_a_stream_that_a_late_event_made_goes_with_the_next_pass(purge: Purge) -> None:
    purge.purged.add(ACME)
    assert await purge.to_the_end() == 0
    await purge.add(ACME, 1, StreamState.COMPLETED)
    assert await purge.to_the_end() == 1
    assert (await purge.rows(), purge.folders()) == ([], [])


async def test_a_purge_that_was_cut_off_between_files_and_row_is_done_again(purge: Purge) -> None:
    await purge.add(ACME, 1, StreamState.COMPLETED)
    await purge.store.delete("acme_1")
    assert await purge.rows() == ["acme_1"]
    purge.purged.add(ACME)
    assert await purge.to_the_end() == 1
    assert await purge.rows() == []


async def test_a_folder_that_was_only_half_deleted_goes_the_next_time(
    purge: Purge, monkeypatch: pytest.MonkeyPatch
) -> None:
    await purge.add(ACME, 1, StreamState.COMPLETED)

    def fail(path: Path) -> None:
        raise OSError("the machine stops")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", fail)
        with pytest.raises(Unavailable):
            await purge.store.delete("acme_1")
    assert purge.folders() == ["acme_1"]
    await purge.store.delete("acme_1")
    assert purge.folders() == []


async def test_output_that_can_never_be_deleted_is_passed_over(
    purge: Purge, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 6):
        await purge.add(ACME, number, StreamState.COMPLETED)
    purge.purged.add(ACME)
    asked: list[str] = []
    delete = SegmentStore.delete

    async def delete_all_but_three(store: SegmentStore, attempt_id: str) -> None:
        asked.append(attempt_id)
        if attempt_id in list(dict.fromkeys(asked))[:3]:
            raise Unavailable("output")
        await delete(store, attempt_id)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentStore, "delete", delete_all_but_three)
        counts = [await purge.run() for _ in range(3)]  # two a pass
        assert counts == [0, 1, 1]
        assert len(await purge.rows()) == 3
    assert await purge.to_the_end() > 0
    assert await purge.rows() == []


async def test_a_publisher_that_comes_late_finds_nothing(purge: Purge) -> None:
    await purge.add(ACME, 1, StreamState.COMPLETED)
    assert await purge.store.unpublished_attempts() == ["acme_1"]
    await purge.store.delete("acme_1")
    found = await purge.store.publishable("acme_1", bytes_max=1 << 20, block_bytes_max=1 << 20)
    assert found == Publishable()
    await purge.store.mark_published("acme_1", through=1)
    assert await purge.store.unpublished_attempts() == []
    assert purge.folders() == []
