"""Breaker, retries, addresses and the transaction mark around real calls."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest
from modelyard.logs.v1 import log_service_pb2 as logs_pb
from modelyard.scheduler.v1 import job_service_pb2 as pb

from services.chassis.breaker import Breaker
from services.chassis.errors import NotFound, Unavailable
from services.chassis.retry import RetryBudget, RetryPolicy
from services.chassis.rpc.client import Edge, idempotent
from services.chassis.rpc.context import Context, acting_as, idempotency_key
from services.chassis.rpc.status import is_callees_fault
from services.chassis.transaction_mark import in_transaction
from tests.integration.chassis_rpc.yard import A_JOB, ANNA, SOON, Handlers, Yard


class Time:
    """Monotonic seconds that the test moves; a pause moves them too."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s


def an_edge(time: Time) -> Edge:
    breaker = Breaker(
        "scheduler",
        failure_count_max=2,
        window=timedelta(seconds=10),
        reset_after=timedelta(seconds=2),
        counts=is_callees_fault,
        monotonic=time.monotonic,
    )
    return Edge("scheduler", breaker, RetryPolicy(RetryBudget(), sleep=time.sleep))


class Flaky:
    """A handler that fails a few times, or until it is healed."""

    def __init__(self, failure_count: int, error: Exception | None = None) -> None:
        self.failure_count = failure_count
        self.error = error or Unavailable("database")

    async def get_job(self, request: Any, context: Context) -> Any:
        if self.failure_count > 0:
            self.failure_count -= 1
            raise self.error
        return A_JOB


async def test_the_breaker_opens_on_unavailable_and_closes_after_a_good_probe(yard: Yard) -> None:
    time, handlers = Time(), Handlers(get_job=Flaky(2).get_job)
    server = await yard.serving(handlers)
    client = await yard.client(server.port, edge=an_edge(time))

    with acting_as(ANNA):
        for _ in range(3):
            with pytest.raises(Unavailable):
                await client.get_job()
        assert client.edge.breaker.state == "open"
        assert len(handlers.seen) == 2

        time.now_s += 2
        await client.get_job()

    assert client.edge.breaker.state == "closed"


async def test_the_breaker_does_not_count_answers_that_callers_cause(yard: Yard) -> None:
    server = await yard.serving(Handlers(get_job=Flaky(9, NotFound("job", "job_1")).get_job))
    client = await yard.client(server.port, edge=an_edge(Time()))

    with acting_as(ANNA):
        for _ in range(9):
            with pytest.raises(NotFound):
                await client.get_job()

    assert client.edge.breaker.state == "closed"


async def test_a_call_that_may_be_repeated_is(yard: Yard) -> None:
    handlers = Handlers(get_job=Flaky(1).get_job)
    server = await yard.serving(handlers)
    client = await yard.client(server.port, edge=an_edge(Time()))

    with acting_as(ANNA):
        assert (await client.get_job(idempotent=True)).job.id == "job_1"

    assert len(handlers.seen) == 2


async def test_a_call_that_may_not_be_repeated_is_not(yard: Yard) -> None:
    handlers = Handlers(get_job=Flaky(1).get_job)
    server = await yard.serving(handlers)
    client = await yard.client(server.port, edge=an_edge(Time()))

    with acting_as(ANNA), pytest.raises(Unavailable):
        await client.get_job(idempotent=False)

    assert len(handlers.seen) == 1


async def test_a_stream_as_probe_keeps_others_out_only_as_long_as_an_open_breaker(
    yard: Yard,
) -> None:
    async def endless(request: Any, context: Context) -> AsyncIterator[Any]:
        yield logs_pb.FollowLogsResponse()
        await asyncio.Event().wait()

    time = Time()
    server = await yard.serving(Handlers(get_job=Flaky(2).get_job, follow=endless))
    client = await yard.client(server.port, edge=an_edge(time))

    with acting_as(ANNA):
        for _ in range(2):
            with pytest.raises(Unavailable):
                await client.get_job()
        time.now_s += 2
        async with aclosing(client.follow()) as answers:
            await anext(answers)
            with pytest.raises(Unavailable):
                await client.get_job()
            time.now_s += 2
            assert (await client.get_job()).job.id == "job_1"

    assert client.edge.breaker.state == "closed"


async def test_calls_are_spread_over_all_addresses(yard: Yard) -> None:
    first, second = Handlers(), Handlers()
    ports = [(await yard.serving(handlers)).port for handlers in (first, second)]
    client = await yard.client(*ports)

    with acting_as(ANNA):
        while not (first.seen and second.seen):  # the second address may connect later
            await client.get_job()


async def test_a_call_inside_a_transaction_is_a_bug(yard: Yard) -> None:
    handlers = Handlers()
    server = await yard.serving(handlers)
    client = await yard.client(server.port)

    token = in_transaction.set(True)
    try:
        with acting_as(ANNA), pytest.raises(AssertionError, match="ADR-0002"):
            await client.get_job()
        with acting_as(ANNA), pytest.raises(AssertionError, match="ADR-0002"):
            async with client.edge.guard():
                pass
    finally:
        in_transaction.reset(token)

    assert handlers.seen == []


@pytest.mark.parametrize("key", ["order-66", None])
async def test_the_idempotency_key_travels(yard: Yard, key: str | None) -> None:
    seen: list[str | None] = []

    async def note(request: Any, context: Context) -> Any:
        seen.append(idempotency_key(context))
        return A_JOB

    server = await yard.serving(Handlers(get_job=note))
    client = await yard.client(server.port)

    with acting_as(ANNA):
        await client.edge.call(
            client.jobs.GetJob,
            pb.GetJobRequest(),
            timeout=SOON,
            idempotent=True,
            metadata=idempotent(key),
        )

    assert seen == [key]
