"""How failures cross from one service to another."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from modelyard.logs.v1 import log_service_pb2 as logs_pb
from modelyard.registry.v1 import artifact_service_pb2 as artifacts_pb

from services.chassis.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    ModelyardError,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    Unavailable,
    Unimplemented,
)
from services.chassis.rpc.context import Context, acting_as
from tests.integration.chassis_rpc.yard import ANNA, Handlers, Yard


def failing(error: Exception) -> Any:
    async def fail(request: Any, context: Context) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        NotFound("job", "job_1"),
        InvalidArgument("spec.name", "must not be empty"),
        QueueFull("default", limit=3, retry_after=timedelta(milliseconds=1500)),
        FailedPrecondition("the job has ended", detail={"state": "SUCCEEDED"}),
        FailedPrecondition("naïve — “ended”"),
    ],
)
async def test_an_error_arrives_as_the_class_that_it_left_as(
    yard: Yard, error: ModelyardError
) -> None:
    server = await yard.serving(Handlers(get_job=failing(error)))
    client = await yard.client(server.port)

    with acting_as(ANNA), pytest.raises(type(error)) as arrived:
        await client.get_job()

    assert arrived.value.message == error.message
    assert arrived.value.detail == error.detail
    assert arrived.value.retry_after == error.retry_after


async def test_an_error_with_a_text_without_end_still_arrives_as_itself(yard: Yard) -> None:
    error = InvalidArgument("spec.name", "x" * 100_000)
    server = await yard.serving(Handlers(get_job=failing(error)))
    client = await yard.client(server.port)

    with acting_as(ANNA), pytest.raises(InvalidArgument) as arrived:
        await client.get_job()

    assert arrived.value.detail["field"] == "spec.name"


@pytest.mark.parametrize("error", [ValueError("password=hunter2"), TimeoutError("hunter2")])
async def test_a_bug_arrives_as_internal_and_none_of_its_text(yard: Yard, error: Exception) -> None:
    server = await yard.serving(Handlers(get_job=failing(error)))
    client = await yard.client(server.port)

    with acting_as(ANNA), pytest.raises(Internal) as arrived:
        await client.get_job()

    assert arrived.value.detail["error_id"].startswith("err_")
    assert "hunter2" not in repr(arrived.value.__cause__)


async def test_a_bug_in_a_stream_arrives_as_internal_after_what_was_sent(yard: Yard) -> None:
    async def follow(request: Any, context: Context) -> AsyncIterator[logs_pb.FollowLogsResponse]:
        yield logs_pb.FollowLogsResponse(complete=True)
        raise KeyError("hunter2")

    server = await yard.serving(Handlers(follow=follow))
    client = await yard.client(server.port)

    answers = client.follow()
    with acting_as(ANNA):
        assert (await anext(answers)).complete
        with pytest.raises(Internal):
            await anext(answers)


async def test_an_upload_that_is_refused_midway_arrives_as_the_refusal(yard: Yard) -> None:
    """Often: grpc.aio loses the status of some, https://github.com/grpc/grpc/issues/36066."""

    async def put(requests: Any, context: Context) -> artifacts_pb.PutArtifactResponse:
        await anext(aiter(requests))
        raise InvalidArgument("header.digest", "is none")

    async def endless() -> AsyncIterator[artifacts_pb.PutArtifactRequest]:
        while True:
            yield artifacts_pb.PutArtifactRequest(chunk=b"x" * 1000)
            await asyncio.sleep(0)

    server = await yard.serving(Handlers(put=put))
    client = await yard.client(server.port)

    with acting_as(ANNA):
        for _ in range(50):
            with pytest.raises(InvalidArgument):
                await client.put(endless())


async def test_a_message_too_large_names_the_bound(yard: Yard) -> None:
    server = await yard.serving(Handlers(), message_bytes_max=1000)
    client = await yard.client(server.port)

    async def large() -> AsyncIterator[artifacts_pb.PutArtifactRequest]:
        yield artifacts_pb.PutArtifactRequest(chunk=b"x" * 2000)

    with acting_as(ANNA), pytest.raises(PayloadTooLarge) as refused:
        await client.put(large())

    assert refused.value.detail["bytes_max"] == "1000"


async def test_a_method_that_is_not_offered_is_unimplemented(yard: Yard) -> None:
    server = await yard.serving(Handlers())
    client = await yard.client(server.port)
    unknown: Any = client.channel.unary_unary("/modelyard.scheduler.v1.JobService/DanceJob")

    with acting_as(ANNA), pytest.raises(Unimplemented):
        await client.edge.call(unknown, b"", timeout=timedelta(seconds=5), idempotent=False)


async def test_nobody_listening_is_unavailable(yard: Yard, unused_tcp_port: int) -> None:
    client = await yard.client(unused_tcp_port)

    with acting_as(ANNA), pytest.raises(Unavailable):
        await client.get_job()


async def test_calls_beyond_the_limit_are_refused_as_unavailable(yard: Yard) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def wait(request: Any, context: Context) -> Any:
        entered.set()
        await leave.wait()
        return await Handlers().GetJob(request, context)

    server = await yard.serving(Handlers(get_job=wait), concurrent_calls_max=1)
    client = await yard.client(server.port)

    with acting_as(ANNA):
        async with asyncio.TaskGroup() as group:
            first = group.create_task(client.get_job())
            await entered.wait()
            with pytest.raises(Unavailable) as refused:
                await client.get_job()
            leave.set()
        assert first.result().job.id == "job_1"
        assert (await client.get_job()).job.id == "job_1"

    cause = refused.value.__cause__
    assert isinstance(cause, grpc.aio.AioRpcError)
    assert cause.code() is grpc.StatusCode.UNAVAILABLE
