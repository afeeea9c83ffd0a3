"""From the scheduler's events and a container's file to gRPC callers and the broker."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from modelyard.logs.v1 import log_events_pb2, log_record_pb2
from modelyard.logs.v1 import log_service_pb2 as pb
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.errors import InvalidArgument, ModelyardError, PermissionDenied
from services.chassis.tenancy import TenantId
from services.log_collector.adapters.kafka_blocks import CONTENT_TYPE
from services.log_collector.adapters.kafka_blocks import TOPIC as BLOCKS
from services.log_collector.bootstrap import DEAD_LETTERS
from services.log_collector.domain.records import Source
from services.log_collector.entrypoints.protobuf import TOPIC as STREAMS
from tests.integration.log_collector.fakes import until
from tests.integration.log_collector.service import (
    FOLLOWERS_MAX,
    Service,
    attempt_event,
    running_service,
)
from tests.unit.log_collector.builders import ContainerLog, a_stream, entry

STREAM = a_stream()
TRACE_ID = "1" * 32
TRACEPARENT = f"00-{TRACE_ID}-{'2' * 16}-01"


@pytest.fixture
async def service(tmp_path: Path, url: str, engine: AsyncEngine) -> AsyncIterator[Service]:
    async with running_service(tmp_path, url, engine) as service:
        yield service


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ContainerLog]:
    log = ContainerLog(tmp_path / "containers", STREAM.attempt_id)
    yield log
    log.close()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


async def test_a_job_is_followed_from_before_its_start_to_its_end(
    service: Service, log: ContainerLog
) -> None:
    texts: list[str] = []
    is_complete = False

    async def follow() -> None:
        nonlocal is_complete
        async for page in service.client.follow(pb.FollowLogsRequest(owner_id="job_1")):
            texts.extend(record.text for record in page.records)
            is_complete = page.complete

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(follow())
        await service.tell(STREAM, "created", version=1)
        await service.tell(STREAM, "started", version=2)
        log.write("one")
        await until(lambda: texts == ["one"])
        log.write("two")
        await service.tell(STREAM, "exited", version=3)

    assert texts == ["one", "two"]
    assert is_complete
    await until(lambda: len(service.broker.records(STREAMS)) == 2)
    assert [headers["ce_type"] for headers in service.headers(STREAMS)] == [
        "modelyard.log-stream.opened.v1",
        "modelyard.log-stream.completed.v1",
    ]
    completed = log_events_pb2.LogStreamChanged.FromString(
        service.broker.records(STREAMS)[1].value or b""
    )
    assert completed.record_count == 2
    assert completed.state == log_events_pb2.LOG_STREAM_STATE_COMPLETED


@pytest.mark.parametrize("is_end_seen", [True, False])
async def test_readers_are_told_when_the_end_of_the_output_was_not_seen(
    service: Service, log: ContainerLog, *, is_end_seen: bool
) -> None:
    await service.tell(STREAM, "started", version=2)
    log.write("one")
    await service.tell(STREAM, "exited", version=3, is_end_seen=is_end_seen)
    await until(lambda: len(service.broker.records(STREAMS)) == 2)

    page = await service.client.read(pb.ReadLogsRequest(owner_id="job_1"))

    assert [record.gap for record in page.records] == ([False] if is_end_seen else [False, True])


async def test_blocks_on_the_broker_are_what_readers_get(
    service: Service, log: ContainerLog
) -> None:
    await service.tell(STREAM, "started", version=2)
    log.write("out")
    log.write_raw(entry("err", source=Source.STDERR))
    log.write_raw(b"no record\n")
    await service.tell(STREAM, "exited", version=3)
    await until(lambda: len(service.broker.records(STREAMS)) == 2)
    page = await service.client.read(pb.ReadLogsRequest(owner_id="job_1"))
    assert [(record.text, record.source, record.corrupt) for record in page.records] == [
        ("out", log_record_pb2.LOG_SOURCE_STDOUT, False),
        ("err", log_record_pb2.LOG_SOURCE_STDERR, False),
        ("bm8gcmVjb3Jk", log_record_pb2.LOG_SOURCE_STDERR, True),
    ]
    assert page.complete
    assert page.next == pb.LogPosition(attempt_number=1, sequence=3)

    await until(lambda: len(service.broker.records(BLOCKS)) > 0)
    records = service.broker.records(BLOCKS)
    blocks = [
        log_record_pb2.LogBlock.FromString(
            zstandard.ZstdDecompressor().decompress(record.value or b"")
        )
        for record in records
    ]
    assert [text for block in blocks for text in block.columns.texts] == [
        record.text for record in page.records
    ]
    assert {record.key for record in records} == {b"att_1"}
    assert {(block.tenant, block.owner_id, block.attempt_number) for block in blocks} == {
        ("acme", "job_1", 1)
    }
    assert service.headers(BLOCKS)[0]["content-type"] == CONTENT_TYPE


async def test_pages_are_bounded_and_continue_without_a_gap(
    service: Service, log: ContainerLog
) -> None:
    await service.tell(STREAM, "started", version=2)
    log.write(*map(str, range(10)))
    await service.tell(STREAM, "exited", version=3)
    await until(lambda: len(service.broker.records(STREAMS)) == 2)
    texts: list[str] = []
    request = pb.ReadLogsRequest(owner_id="job_1", record_count_max=4)
    while True:
        page = await service.client.read(request)
        texts += [record.text for record in page.records]
        if page.complete:
            break
        request.after.CopyFrom(page.next)

    assert texts == list(map(str, range(10)))


async def test_another_tenants_job_reads_and_follows_like_an_unknown_one(
    service: Service, log: ContainerLog
) -> None:
    await service.tell(STREAM, "started", version=2)
    log.write("secret")
    await service.tell(STREAM, "exited", version=3)
    await until(lambda: len(service.broker.records(STREAMS)) == 2)
    other = TenantId("other")

    answers = [
        await service.client.read(pb.ReadLogsRequest(owner_id=owner_id), tenant=other)
        for owner_id in ("job_1", "job_unknown")
    ]
    assert answers[0] == answers[1]
    follow = service.client.follow(pb.FollowLogsRequest(owner_id="job_1"), tenant=other)
    async with aclosing(follow):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await anext(follow)


async def test_reading_takes_the_scope(service: Service) -> None:
    with pytest.raises(PermissionDenied):
        await service.client.read(pb.ReadLogsRequest(owner_id="job_1"), scopes=["jobs:read"])


@pytest.mark.parametrize(
    "request_",
    [
        pb.ReadLogsRequest(owner_id="job_1", record_count_max=5001),
        pb.ReadLogsRequest(owner_id="job_1", record_count_max=-1),
        pb.ReadLogsRequest(owner_id="job_1", after=pb.LogPosition(sequence=-1)),
        pb.ReadLogsRequest(owner_id="job_1", filter=pb.LogFilter(contains="x" * 1025)),
        pb.ReadLogsRequest(),
        pb.ReadLogsRequest(owner_id="job\0"),
    ],
    ids=["too many", "negative count", "negative position", "long text", "no owner", "odd owner"],
)
async def test_what_can_not_be_meant_is_refused(
    service: Service, request_: pb.ReadLogsRequest
) -> None:
    with pytest.raises(InvalidArgument):
        await service.client.read(request_)


async def test_a_drain_ends_a_follow_without_complete(service: Service, log: ContainerLog) -> None:
    await service.tell(STREAM, "started", version=2)
    log.write("one")
    pages = service.client.follow(pb.FollowLogsRequest(owner_id="job_1"))
    assert [record.text for record in (await anext(pages)).records] == ["one"]
    service.drain()

    assert [page async for page in pages] == []


async def test_more_followers_than_places_are_told_to_come_again(service: Service) -> None:
    follows = [
        service.client.follow(pb.FollowLogsRequest(owner_id=f"job_{number}"))
        for number in range(FOLLOWERS_MAX + 1)
    ]

    async def refused(pages: AsyncIterator[pb.FollowLogsResponse]) -> ModelyardError:
        with pytest.raises(ModelyardError) as refusal:
            await anext(pages)
        return refusal.value

    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(refused(pages)) for pages in follows]
        await until(lambda: any(wait.done() for wait in waiting))
        done = [wait for wait in waiting if wait.done()]
        for wait in waiting:
            wait.cancel()

    assert [wait.result().code for wait in done] == ["QUEUE_FULL"]


async def test_an_event_that_breaks_the_contract_is_dead_lettered(service: Service) -> None:
    assert STREAM.location is not None
    event = attempt_event(STREAM, "started", version=2)
    escaping = event.data.replace(b"att_1/container.log", b"../..//container.lo")
    await service.send(replace(event, data=escaping))
    await service.send(replace(event, data=b"\xff"))

    await until(lambda: len(service.broker.records(DEAD_LETTERS)) == 2)


async def test_all_that_happens_to_a_stream_is_in_its_jobs_trace(
    service: Service, log: ContainerLog, spans: InMemorySpanExporter
) -> None:
    await service.tell(STREAM, "started", version=2, traceparent=TRACEPARENT)
    log.write("one")
    await service.tell(STREAM, "exited", version=3, traceparent=TRACEPARENT)
    await until(lambda: len(service.broker.records(STREAMS)) == 2)

    assert {headers["traceparent"][3:35] for headers in service.headers(STREAMS)} == {TRACE_ID}
    names = {
        span.name
        for span in spans.get_finished_spans()
        if f"{span.context.trace_id:032x}" == TRACE_ID
    }
    assert {"process modelyard.attempt.lifecycle.v1", "log stream collected"} <= names
