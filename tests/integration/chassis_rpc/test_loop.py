"""The server as a loop of its process."""

import asyncio
from datetime import timedelta

import pytest

from services.chassis.errors import Unavailable
from services.chassis.rpc.context import acting_as
from services.chassis.rpc.server import RpcLoop
from services.chassis.settings import GrpcServerSettings
from tests.integration.chassis_rpc.yard import (
    A_JOB,
    ANNA,
    CALLERS,
    JOBS,
    SCOPES,
    Handlers,
    Yard,
    a_verifier,
)
from tests.support.eventually import eventually
from tests.support.free_port import free_port


async def test_the_loop_is_there_while_calls_are_answered_and_drains_at_its_end(yard: Yard) -> None:
    port, drained = free_port(), asyncio.Event()
    loop = RpcLoop(
        GrpcServerSettings(port=port),
        register=Handlers().register,
        services=(JOBS,),
        verifier=a_verifier(),
        required_scopes=SCOPES,
        callers=CALLERS,
        drain_max=timedelta(seconds=5),
        on_drain=drained.set,
    )

    async def is_there() -> bool:
        try:
            await loop.ping()
        except Unavailable:
            return False
        return True

    assert not await is_there()
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(loop.run(stopping))
        await eventually(is_there, what="calls are answered")
        client = await yard.client(port)
        with acting_as(ANNA):
            assert await client.get_job() == A_JOB
        assert not drained.is_set()
        stopping.set()

    assert drained.is_set()
    assert not await is_there()
    with acting_as(ANNA), pytest.raises(Unavailable):
        await client.get_job()
