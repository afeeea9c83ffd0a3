"""Ending: asked for, forced, by a limit; always the whole tree."""

import asyncio
import signal
from datetime import timedelta

from services.scheduler.domain.attempts.runtime import Capability, EndCause
from tests.contract.container_runtime.kit import NO_GRACE, NOT_AT_ONCE, Kit

OBEYS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(3)))
print('up')
time.sleep(60)
"""
IGNORES = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up')
time.sleep(60)
"""
DAEMON = """
import os, time
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write, b'.')
        time.sleep(60)
    os._exit(0)
os.read(read, 1)
print('up')
"""


async def test_stop_lets_the_program_end_by_itself_within_the_grace(kit: Kit) -> None:
    name = await kit.started(OBEYS)
    await kit.said(name, "up")

    status = await kit.runtime.stop(name, grace=timedelta(seconds=20))

    assert status.exit is not None
    assert (status.exit.code, status.exit.cause) == (3, EndCause.STOP)
    assert await kit.output(name) == "up\nbye\n"


async def test_stop_kills_after_the_grace(kit: Kit) -> None:
    name = await kit.started(IGNORES)
    await kit.said(name, "up")

    status = await kit.runtime.stop(name, grace=timedelta(seconds=0.3))

    assert status.exit is not None
    assert (status.exit.code, status.exit.signal) == (137, signal.SIGKILL)
    assert status.exit.ended_at - status.exit.started_at >= timedelta(seconds=0.3)


async def test_stop_with_less_grace_overtakes_an_earlier_one(kit: Kit) -> None:
    name = await kit.started(IGNORES)
    await kit.said(name, "up")

    patient = asyncio.gather(kit.runtime.stop(name, grace=timedelta(minutes=5)))
    hasty = await kit.runtime.stop(name, grace=NO_GRACE)

    assert list(await patient) == [hasty]


async def test_stop_tells_the_end_when_it_has_ended(kit: Kit) -> None:
    status = await kit.ran("pass")

    assert await kit.runtime.stop(status.name, grace=NO_GRACE) == status


async def test_stop_kills_daemons_that_left_the_session(kit: Kit) -> None:
    name = await kit.started(DAEMON + "time.sleep(60)")
    await kit.said(name, "up")
    assert len(kit.processes_of(name)) >= 2

    await kit.runtime.stop(name, grace=NO_GRACE)

    assert kit.processes_of(name) == []


async def test_daemons_are_killed_when_the_program_ends(kit: Kit) -> None:
    status = await kit.ran(DAEMON)

    assert status.exit is not None
    assert status.exit.code == 0
    assert kit.processes_of(status.name) == []


async def test_time_limit_ends_the_program(kit: Kit) -> None:
    kit.require(Capability.RUN_TIME_LIMIT)
    status = await kit.ran(
        IGNORES, run_time_max=timedelta(seconds=0.3), stop_grace=timedelta(seconds=0.1)
    )

    assert status.exit is not None
    assert status.exit.cause is EndCause.TIME_LIMIT


async def test_memory_limit_ends_the_program_and_says_so(kit: Kit) -> None:
    status = await kit.ran(
        f"{NOT_AT_ONCE}; held = bytearray(96 << 20); held[::4096] = b'x' * len(held[::4096]);"
        "time.sleep(60)",
        memory_bytes=64 << 20,
    )

    assert status.exit is not None
    assert status.exit.is_oom
    assert status.exit.signal == signal.SIGKILL
    if kit.offers(Capability.USAGE_REPORTED):
        assert (status.exit.memory_bytes_peak or 0) > 64 << 20


async def test_memory_limit_counts_the_whole_tree(kit: Kit) -> None:
    status = await kit.ran(
        f"import os; {NOT_AT_ONCE}\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0: break\n"
        "held = bytearray(24 << 20); held[::4096] = b'x' * len(held[::4096])\n"
        "time.sleep(60)",
        memory_bytes=80 << 20,
    )

    assert status.exit is not None
    assert status.exit.is_oom
