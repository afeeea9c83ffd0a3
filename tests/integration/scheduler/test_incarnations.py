"""A process that died holds no lease; one that lives does, frozen or not."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.chassis.clock import SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.db.lease import LeaseKeeper, PostgresLeases
from services.chassis.errors import Unavailable
from services.chassis.settings import PostgresSettings
from services.scheduler.adapters.incarnations import living_as, release_leases_of_the_dead
from services.scheduler.adapters.postgres.tables import CHASSIS
from tests.support.databases import Databases

LIVES = """
import pathlib, subprocess, sys, time
from services.scheduler.adapters.incarnations import living_as
with living_as(sys.argv[1], pathlib.Path(sys.argv[2])):
    child = subprocess.Popen(["sleep", "60"])
    print(child.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
async def leases(database_url: Databases) -> AsyncIterator[PostgresLeases]:
    settings = PostgresSettings(url=SecretStr(database_url("scheduler")))
    async with open_engine(settings, application_name="tests") as engine:
        yield PostgresLeases(engine, CHASSIS)


@contextmanager
def a_process(name: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that has a child, as a scheduler has its containers' keepers."""
    command = [sys.executable, "-c", LIVES, name, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            yield process
        finally:
            process.kill()
            os.kill(child, signal.SIGKILL)


def keeper(leases: PostgresLeases, name: str, holder: str) -> LeaseKeeper:
    ttl = timedelta(minutes=5)
    return LeaseKeeper(leases, name, holder=holder, ttl=ttl, clock=SystemClock())


async def test_all_leases_of_a_killed_process_are_free_at_once_though_its_child_lives(
    leases: PostgresLeases, tmp_path: Path
) -> None:
    with a_process("proc_dead", tmp_path) as process:
        for name in ("scheduling", "node/a"):
            assert await keeper(leases, name, "proc_dead").acquire()
        assert await keeper(leases, "node/b", "proc_elsewhere").acquire()
        process.kill()
        await asyncio.to_thread(process.wait)
        assert await keeper(leases, "node/a", "proc_heir").acquire() is None

        await release_leases_of_the_dead(tmp_path, leases)

        for name in ("scheduling", "node/a"):
            taken = await keeper(leases, name, "proc_heir").acquire()
            assert taken is not None
            assert taken.epoch == 2
        assert await keeper(leases, "node/b", "proc_heir").acquire() is None
    assert os.listdir(tmp_path) == []


async def test_a_frozen_process_keeps_its_leases(leases: PostgresLeases, tmp_path: Path) -> None:
    with a_process("proc_frozen", tmp_path) as process:
        assert await keeper(leases, "scheduling", "proc_frozen").acquire()
        process.send_signal(signal.SIGSTOP)

        await release_leases_of_the_dead(tmp_path, leases)

        assert await keeper(leases, "scheduling", "proc_heir").acquire() is None


async def test_a_process_keeps_its_own_leases_and_leaves_no_file(
    leases: PostgresLeases, tmp_path: Path
) -> None:
    with living_as("proc_own", tmp_path):
        assert await keeper(leases, "scheduling", "proc_own").acquire()
        await release_leases_of_the_dead(tmp_path, leases)
        assert await keeper(leases, "scheduling", "proc_heir").acquire() is None
    assert os.listdir(tmp_path) == []


async def test_the_dead_are_found_again_after_an_outage_of_the_database(
    leases: PostgresLeases, tmp_path: Path
) -> None:
    class Away:
        async def release_all(self, holder: str) -> int:
            raise Unavailable("database")

    with a_process("proc_dead", tmp_path) as process:
        assert await keeper(leases, "scheduling", "proc_dead").acquire()
        process.kill()
        await asyncio.to_thread(process.wait)
        await release_leases_of_the_dead(tmp_path, Away())

    await release_leases_of_the_dead(tmp_path, leases)
    assert await keeper(leases, "scheduling", "proc_heir").acquire()
