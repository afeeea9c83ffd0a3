"""Tokens that expire while calls go on. Time is moved by the calls: a second with each."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

import grpc.aio
import pytest
from modelyard.logs.v1 import log_service_pb2 as logs_pb
from modelyard.scheduler.v1 import job_service_pb2 as pb
from modelyard.scheduler.v1 import job_service_pb2_grpc

from services.chassis.errors import ModelyardError
from services.chassis.rpc.context import Context, acting_as
from services.chassis.rpc.identity import LEEWAY, LIFETIME, TokenSigner, TokenVerifier
from tests.integration.chassis_rpc.yard import A_JOB, ANNA, CALLEE, GATEWAY, Handlers, Yard
from tests.support.clock import MovedClock

AT_ONCE: Final = 16
ROUNDS: Final = 30
STEP: Final = timedelta(seconds=1)
"""Sixteen of these pass while a call is under way: it may be the last to be sent."""
LIFETIMES: Final = AT_ONCE * ROUNDS * STEP / LIFETIME


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def signer(clock: MovedClock) -> TokenSigner:
    return TokenSigner("api-gateway", GATEWAY.private, clock)


@pytest.fixture
def verifier(clock: MovedClock) -> TokenVerifier:
    return TokenVerifier(CALLEE, {"api-gateway": GATEWAY.public}, clock)


async def status_with(channel: grpc.aio.Channel, token: str) -> str:
    """Call with a token that somebody has got hold of."""
    stub: Any = job_service_pb2_grpc.JobServiceStub(channel)  # type: ignore[no-untyped-call,unused-ignore]
    metadata = (("authorization", f"Bearer {token}"),)
    try:
        await stub.GetJob(pb.GetJobRequest(), timeout=5, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_no_call_is_refused_while_tokens_expire_but_those_with_an_old_one(
    yard: Yard, clock: MovedClock, signer: TokenSigner, verifier: TokenVerifier
) -> None:
    tokens: list[str] = []
    failures: list[ModelyardError] = []

    async def note(request: Any, context: Context) -> Any:
        metadata = dict(context.invocation_metadata() or ())
        tokens.append(str(metadata["authorization"]).removeprefix("Bearer "))
        return A_JOB

    async def call() -> None:
        clock.ahead += STEP
        try:
            await client.get_job(idempotent=False)
        except ModelyardError as error:
            failures.append(error)

    server = await yard.serving(Handlers(get_job=note), verifier=verifier)
    client = await yard.client(server.port, signer=signer)
    captured = signer.token(ANNA, CALLEE)
    told: list[tuple[timedelta, str]] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as thief:
        with acting_as(ANNA):
            for _ in range(ROUNDS):
                told.append((clock.ahead, await status_with(thief, captured)))
                async with asyncio.TaskGroup() as group:
                    for _ in range(AT_ONCE):
                        group.create_task(call())

    assert failures == []
    assert LIFETIMES > 5
    assert len(set(tokens)) > LIFETIMES
    assert {status for age, status in told if age < LIFETIME} == {"OK"}
    assert {status for age, status in told if age > LIFETIME + LEEWAY} == {"UNAUTHENTICATED"}


async def test_a_stream_goes_on_when_the_token_that_it_began_with_expires(
    yard: Yard, clock: MovedClock, signer: TokenSigner, verifier: TokenVerifier
) -> None:
    has_expired = asyncio.Event()

    async def follow(request: Any, context: Context) -> AsyncIterator[logs_pb.FollowLogsResponse]:
        yield logs_pb.FollowLogsResponse()
        await has_expired.wait()
        yield logs_pb.FollowLogsResponse(complete=True)

    server = await yard.serving(Handlers(follow=follow), verifier=verifier)
    client = await yard.client(server.port, signer=signer)
    pages = []
    with acting_as(ANNA):
        async for page in client.follow():
            pages.append(page.complete)
            clock.ahead += LIFETIME + LEEWAY
            has_expired.set()

    assert pages == [False, True]
