"""A forked child of a test run has one thread, whatever gRPC does in the run."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = """
import asyncio, os, sys, warnings
import tests  # says what gRPC is to do, as in each run
import grpc.aio

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        warnings.simplefilter("ignore", DeprecationWarning)  # it has one thread, shown here
        child = os.fork()
        if child == 0:
            os._exit(len(os.listdir("/proc/self/task")))
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
    await server.stop(grace=None)
    return os.waitstatus_to_exitcode(status)

sys.exit(asyncio.run(main()))
"""


def test_a_child_has_no_threads_of_grpc() -> None:
    """In a process of its own: what else a run has open may start a thread in each child, too."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env={}, check=False, timeout=60
    )
    assert ended.returncode == 1
