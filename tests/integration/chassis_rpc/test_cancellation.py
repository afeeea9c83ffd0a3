"""A caller that leaves takes its callee's work with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from modelyard.logs.v1 import log_record_pb2
from modelyard.logs.v1 import log_service_pb2 as logs_pb

from services.chassis.rpc.context import Context, acting_as, principal
from tests.integration.chassis_rpc.yard import ANNA, Handlers, Yard


@dataclass(slots=True)
class Work:
    """A handler's work, as the test sees it."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the handler's own `finally`, in the call's context."""

    async def unary(self, request: Any, context: Context) -> Any:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            assert principal() == ANNA
            self.left.set()

    async def silent(self, request: Any, context: Context) -> AsyncIterator[Any]:
        yield logs_pb.FollowLogsResponse()
        await self.unary(request, context)

    async def talkative(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """Stands at its `yield` most of the time: the client reads slower than it writes."""
        record = log_record_pb2.LogRecord(text="x" * 100_000)
        try:
            while True:
                self.begun.set()
                yield logs_pb.FollowLogsResponse(records=[record])
        finally:
            assert principal() == ANNA
            self.left.set()


async def test_a_cancelled_call_cancels_its_handler(yard: Yard) -> None:
    work = Work()
    server = await yard.serving(Handlers(get_job=work.unary))
    client = await yard.client(server.port)

    with acting_as(ANNA):
        async with asyncio.TaskGroup() as group:
            call = group.create_task(client.get_job())
            await work.begun.wait()
            call.cancel()

    assert call.cancelled()
    await work.left.wait()
    assert client.edge.breaker.state == "closed"


async def test_a_timeout_around_a_call_cancels_its_handler(yard: Yard) -> None:
    work = Work()
    server = await yard.serving(Handlers(get_job=work.unary))
    client = await yard.client(server.port)

    async def call_until_it_has_begun() -> None:
        async with asyncio.timeout(None) as bound, asyncio.TaskGroup() as group:
            group.create_task(client.get_job())
            await work.begun.wait()
            bound.reschedule(0)

    with acting_as(ANNA), pytest.raises(TimeoutError):
        await call_until_it_has_begun()

    await work.left.wait()


@pytest.mark.parametrize("kind", ["silent", "talkative"])
async def test_a_stream_that_its_client_leaves_is_closed(yard: Yard, kind: str) -> None:
    work = Work()
    server = await yard.serving(Handlers(follow=getattr(work, kind)))
    client = await yard.client(server.port)

    with acting_as(ANNA):
        async with aclosing(client.follow()) as answers:
            await anext(answers)
            await work.begun.wait()

    await work.left.wait()


@pytest.mark.parametrize("kind", ["silent", "talkative"])
async def test_a_cancelled_stream_is_closed(yard: Yard, kind: str) -> None:
    work = Work()
    server = await yard.serving(Handlers(follow=getattr(work, kind)))
    client = await yard.client(server.port)

    async def read_one_and_wait() -> None:
        async for _ in client.follow():
            await asyncio.Event().wait()

    with acting_as(ANNA):
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read_one_and_wait())
            await work.begun.wait()
            reading.cancel()

    await work.left.wait()
