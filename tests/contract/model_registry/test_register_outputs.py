"""A succeeded job's outputs become versions, once."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from modelyard.common.v1.files_pb2 import FileEntry
from modelyard.registry.v1 import model_pb2
from modelyard.registry.v1.model_service_pb2 import ListModelsRequest
from modelyard.scheduler.v1.job_events_pb2 import JobTransitioned, OutputManifest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.chassis.events.envelope import NewEvent, record_of
from services.chassis.events.ports import Record
from services.chassis.tenancy import TenantId
from tests.contract.model_registry.consuming import Consuming
from tests.integration.model_registry.registry import (
    ACME,
    CLOCK,
    GLOBEX,
    a_file,
    an_output,
    digest_of,
    job_succeeded,
)
from tests.support.eventually import eventually

TRACE_ID = "1" * 32
TRACEPARENT = f"00-{TRACE_ID}-{'2' * 16}-01"


async def types(consuming: Consuming) -> list[str]:
    return [
        event_type.removeprefix("modelyard.model.").removesuffix(".v1")
        for event_type, _ in await consuming.registry.events()
    ]


async def test_output_becomes_a_version_of_a_new_model_with_its_lineage(
    consuming: Consuming,
) -> None:
    client = consuming.registry.client
    await client.put(b"weights")
    await consuming.tell(
        job_succeeded(topic=consuming.jobs, metrics={"accuracy": 0.98, "loss": math.nan})
    )
    async with consuming.consumer() as consumer:
        await consumer.until_ended(1)
    version = await client.get_version(version=1)
    assert version.state == model_pb2.VERSION_STATE_READY
    assert (version.job_id, version.output_name) == ("job_1", "model")
    assert version.source_digest == digest_of(b"source")
    assert list(version.files) == [a_file()]
    # A number that JSON has no word for is left out, not the whole version.
    assert dict(version.metrics) == {"accuracy": 0.98}
    assert await types(consuming) == ["created", "version-ready"]


async def test_event_that_comes_twice_makes_one_version(consuming: Consuming) -> None:
    await consuming.registry.client.put(b"weights")
    event = job_succeeded(topic=consuming.jobs, event_id="evt_1")
    await consuming.tell(event, event)
    async with consuming.consumer() as consumer:
        await consumer.until_ended(2)
    assert (await consuming.registry.client.get_model()).newest_version == 1
    assert await types(consuming) == ["created", "version-ready"]


async def test_crash_between_commit_and_position_makes_one_version(consuming: Consuming) -> None:
    await consuming.registry.client.put(b"weights")
    await consuming.tell(job_succeeded(topic=consuming.jobs))
    async with consuming.consumer(is_forgetful=True) as consumer:
        await consumer.until_ended(1)
    async with consuming.consumer() as consumer:
        await consumer.until_ended(1)
    assert (await consuming.registry.client.get_model()).newest_version == 1
    assert await types(consuming) == ["created", "version-ready"]


async def test_output_that_two_events_tell_of_makes_one_version(consuming: Consuming) -> None:
    await consuming.registry.client.put(b"weights")
    await consuming.tell(
        *(job_succeeded(topic=consuming.jobs, event_id=f"evt_{number}") for number in (1, 2))
    )
    async with consuming.consumer() as consumer:
        await consumer.until_ended(2)
    assert (await consuming.registry.client.get_model()).newest_version == 1
    assert await types(consuming) == ["created", "version-ready"]


async def test_outputs_of_many_jobs_meet_in_the_same_new_models(consuming: Consuming) -> None:
    client = consuming.registry.client
    await client.put(b"weights")
    outputs = [an_output(name=name, register_as=name) for name in ("a", "b", "c")]
    jobs = [
        job_succeeded(
            *(outputs if number % 2 else reversed(outputs)),
            topic=consuming.jobs,
            job_id=f"job_{number}",
        )
        for number in range(8)
    ]
    await consuming.tell(*jobs)

    async def all_are_there() -> bool:
        answer = await client.call(client.models.ListModels, ListModelsRequest())
        return [model.newest_version for model in answer.models] == [len(jobs)] * 3

    # Two members of the group, so that events of both are at work at once.
    async with consuming.consumer(), consuming.consumer():
        await eventually(all_are_there, what="each job has a version of each model")
    for name in ("a", "b", "c"):
        versions = [await client.get_version(name, version=n + 1) for n in range(len(jobs))]
        assert {version.job_id for version in versions} == {f"job_{n}" for n in range(len(jobs))}


async def test_version_is_failed_and_says_why_when_bytes_are_missing(consuming: Consuming) -> None:
    client = consuming.registry.client
    await client.of(GLOBEX).put(b"weights")
    await consuming.tell(job_succeeded(topic=consuming.jobs))
    async with consuming.consumer() as consumer:
        await consumer.until_ended(1)
    version = await client.get_version(version=1)
    assert version.state == model_pb2.VERSION_STATE_FAILED
    assert version.state_reason == f"model.bin: {digest_of(b'weights')} is not stored"
    assert await types(consuming) == ["created", "version-failed"]


async def test_output_without_a_model_name_is_only_an_artifact(consuming: Consuming) -> None:
    await consuming.tell(
        job_succeeded(an_output(register_as=""), topic=consuming.jobs),
        _other_type(consuming),
    )
    async with consuming.consumer() as consumer:
        await consumer.until_ended(2)
    assert await consuming.registry.events() == []


BROKEN: Mapping[str, Callable[[str], Record]] = {
    "files[0].path": lambda topic: job_succeeded(an_output(a_file("../escape")), topic=topic),
    "files[0].digest": lambda topic: job_succeeded(
        an_output(FileEntry(path="model.bin", digest="md5:0")), topic=topic
    ),
    "files:": lambda topic: job_succeeded(
        OutputManifest(name="model", register_as="digits"), topic=topic
    ),
    "name": lambda topic: job_succeeded(an_output(register_as="a/b"), topic=topic),
    "job_id": lambda topic: replace(
        job_succeeded(topic=topic), value=JobTransitioned(tenant=ACME).SerializeToString()
    ),
    "source_digest": lambda topic: job_succeeded(source_digest="main", topic=topic),
    "tenant": lambda topic: _as_if_of(GLOBEX, job_succeeded(topic=topic)),
    "data": lambda topic: replace(job_succeeded(topic=topic), value=b"\xff\xff"),
}


@pytest.mark.parametrize("cause", BROKEN)
async def test_event_that_breaks_the_contract_is_dead_lettered_with_its_reason(
    consuming: Consuming, cause: str
) -> None:
    await consuming.registry.client.put(b"weights")
    await consuming.tell(BROKEN[cause](consuming.jobs), job_succeeded(topic=consuming.jobs))
    async with consuming.consumer() as consumer:
        await consumer.until_ended(2)
    headers = await consuming.dead_letter()
    assert headers["dead_letter_reason"] == "INVALID_ARGUMENT"
    assert headers["dead_letter_message"].startswith(cause)
    # What follows is registered all the same.
    assert (await consuming.registry.client.get_model()).newest_version == 1


async def test_published_facts_are_in_the_trace_of_the_job(
    consuming: Consuming, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    await consuming.registry.client.put(b"weights")
    await consuming.tell(job_succeeded(topic=consuming.jobs, traceparent=TRACEPARENT))
    async with consuming.consumer() as consumer:
        await consumer.until_ended(1)
    (process,) = (
        span for span in exporter.get_finished_spans() if span.name == f"process {consuming.jobs}"
    )
    assert process.parent is not None
    assert f"{process.parent.span_id:016x}" == "2" * 16
    of_the_job = {
        f"{span.context.span_id:016x}"
        for span in exporter.get_finished_spans()
        if span.context is not None and f"{span.context.trace_id:032x}" == TRACE_ID
    }
    traceparents = await consuming.registry.traceparents()
    assert len(traceparents) == 2
    for traceparent in traceparents:
        _, trace_id, span_id, _ = traceparent.split("-")
        assert trace_id == TRACE_ID
        assert span_id in of_the_job


def _as_if_of(tenant: TenantId, record: Record) -> Record:
    headers = tuple(
        (name, tenant.encode() if name == "ce_tenant" else value) for name, value in record.headers
    )
    return replace(record, headers=headers)


def _other_type(consuming: Consuming) -> Record:
    return record_of(
        NewEvent(
            topic=consuming.jobs,
            key="job_2",
            type="modelyard.job.running.v1",
            subject="job_2",
            tenant=ACME,
            data=b"",
            dataschema="modelyard.scheduler.v1.JobTransitioned",
        ),
        event_id="evt_other",
        source="/scheduler",
        time=CLOCK.now(),
    )
