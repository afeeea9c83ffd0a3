"""A forked child of a test run has one thread, whatever gRPC does in the run."""

import asyncio
import os

import grpc.aio
import pytest


@pytest.mark.filterwarnings(
    "ignore:.*use of fork:DeprecationWarning"
)  # it has one thread, shown here
async def test_a_child_has_no_threads_of_grpc() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()

        child = os.fork()
        if child == 0:
            os._exit(len(os.listdir("/proc/self/task")))
        _, status = await asyncio.to_thread(os.waitpid, child, 0)

    await server.stop(grace=None)
    assert os.waitstatus_to_exitcode(status) == 1
