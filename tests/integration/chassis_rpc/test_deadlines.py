"""How long calls last, over one hop and over two."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from modelyard.scheduler.v1 import job_service_pb2 as pb

from services.chassis.errors import DeadlineExceeded
from services.chassis.rpc.context import Context, acting_as, bounded_by, deadline
from services.chassis.rpc.deadline import Deadline
from tests.integration.chassis_rpc.yard import A_JOB, ANNA, Handlers, Yard


async def for_ever(request: Any, context: Context) -> Any:
    await asyncio.Event().wait()


def noting(remaining_s: list[float | None]) -> Any:
    async def note(request: Any, context: Context) -> Any:
        until = deadline()
        remaining_s.append(None if until is None else until.remaining_s())
        return A_JOB

    return note


async def test_a_call_ends_at_its_time_out(yard: Yard) -> None:
    server = await yard.serving(Handlers(get_job=for_ever))
    client = await yard.client(server.port)

    with acting_as(ANNA), pytest.raises(DeadlineExceeded):
        await client.get_job(timeout=timedelta(milliseconds=100))


async def test_the_handler_knows_how_long_its_caller_waits(yard: Yard) -> None:
    remaining_s: list[float | None] = []
    server = await yard.serving(Handlers(get_job=noting(remaining_s)))
    client = await yard.client(server.port)

    with acting_as(ANNA):
        await client.get_job(timeout=timedelta(seconds=3))

    assert remaining_s[0] is not None
    assert 0 < remaining_s[0] < 3.1  # on the wire it is rounded up to three digits


async def test_a_call_within_a_call_gets_less_than_what_is_left(yard: Yard) -> None:
    remaining_s: list[float | None] = []
    far = await yard.serving(Handlers(get_job=noting(remaining_s)))
    to_far = await yard.client(far.port)

    async def forward(request: Any, context: Context) -> Any:
        until = deadline()
        assert until is not None
        remaining_s.append(until.remaining_s())
        return await to_far.get_job(timeout=timedelta(minutes=1))

    near = await yard.serving(Handlers(get_job=forward))
    client = await yard.client(near.port)

    with acting_as(ANNA):
        await client.get_job(timeout=timedelta(seconds=3))

    here_s, there_s = remaining_s
    assert here_s is not None
    assert there_s is not None
    assert there_s < here_s


async def test_a_stream_within_a_call_ends_with_the_call(yard: Yard) -> None:
    async def silent(request: Any, context: Context) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield

    server = await yard.serving(Handlers(follow=silent))
    client = await yard.client(server.port)

    with (
        acting_as(ANNA),
        bounded_by(Deadline.after(timedelta(milliseconds=200))),
        pytest.raises(DeadlineExceeded),
    ):
        await anext(client.follow(timeout_s=None))


async def test_a_call_that_could_not_end_in_time_is_not_made(yard: Yard) -> None:
    handlers = Handlers()
    server = await yard.serving(handlers)
    client = await yard.client(server.port)

    with (
        acting_as(ANNA),
        bounded_by(Deadline.after(timedelta(milliseconds=10))),
        pytest.raises(DeadlineExceeded),
    ):
        await client.get_job()

    assert handlers.seen == []


async def test_a_call_without_deadline_gets_the_servers(yard: Yard) -> None:
    server = await yard.serving(
        Handlers(get_job=for_ever), default_deadline=timedelta(milliseconds=100)
    )
    client = await yard.client(server.port)

    with acting_as(ANNA), pytest.raises(grpc.aio.AioRpcError) as late:
        await client.jobs.GetJob(pb.GetJobRequest())

    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_callers_in_a_hurry_do_not_open_the_breaker_for_others(yard: Yard) -> None:
    server = await yard.serving(Handlers(get_job=for_ever))
    client = await yard.client(server.port)

    with acting_as(ANNA):
        for _ in range(6):
            with (
                bounded_by(Deadline.after(timedelta(milliseconds=50))),
                pytest.raises(DeadlineExceeded),
            ):
                await client.get_job()

    assert client.edge.breaker.state == "closed"
