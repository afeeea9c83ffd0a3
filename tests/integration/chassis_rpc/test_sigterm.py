"""A process that is told to stop while it is busy."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from pathlib import Path

import pytest

from services.chassis.errors import Unavailable
from services.chassis.rpc.context import acting_as
from tests.integration.chassis_rpc.yard import ANNA, GATEWAY, Client, Yard

CALLER_COUNT = 16
BUSY_AFTER_COUNT = 200


async def keep_calling(client: Client, answers: Counter[str], is_busy: asyncio.Event) -> None:
    """Call until refused; nothing but an answer or a refusal may come."""
    while True:
        try:
            await client.get_job()
        except Unavailable:
            answers["refused"] += 1
            return
        answers["answered"] += 1
        if answers["answered"] >= BUSY_AFTER_COUNT:
            is_busy.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_under_load_loses_no_call_that_was_worked_on(
    yard: Yard, tmp_path: Path, number: signal.Signals
) -> None:
    key_file = tmp_path / "api-gateway.pub.pem"
    key_file.write_bytes(GATEWAY.public)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.chassis_rpc.process", str(key_file)),
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        assert process.stdout is not None
        client = await yard.client(int(await process.stdout.readline()))
        answers: Counter[str] = Counter()
        is_busy = asyncio.Event()

        with acting_as(ANNA):
            async with asyncio.TaskGroup() as group:
                for _ in range(CALLER_COUNT):
                    group.create_task(keep_calling(client, answers, is_busy))
                await is_busy.wait()
                process.send_signal(number)

        output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        assert answers["refused"] == CALLER_COUNT
        assert int(output) == answers["answered"]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
