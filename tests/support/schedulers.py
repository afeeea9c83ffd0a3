"""Schedulers beside a stack's own: replicas on the same database, for tests and benches.

Owns: what a replica has for itself (ports, the files it fetches) and what it shares (database,
broker, keys, node, containers). The stack starts one scheduler; `start` starts any other, and the
same one again. Whoever is killed is gone when the call returns.
"""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from deploy.local import asynchronously
from deploy.local.ports import LOOPBACK, port_of
from deploy.local.processes import Program, environment_of, is_alive, launch, require_alive, stop
from deploy.local.services import is_healthy
from deploy.local.state import CHECKOUT, State
from services.scheduler.adapters.postgres.tables import CHASSIS
from services.scheduler.bootstrap import PROCESSES_FOLDER
from tests.support.eventually import until

FIRST: Final = "scheduler"
"""The stack's own."""
SECOND: Final = "second_scheduler"
SCHEDULING: Final = "scheduling"
"""The lease of whoever admits."""
_READY_MAX_S: Final = 90.0
_END_S_MAX: Final = 60.0
"""More than all stages of a shutdown may take."""


class Lease(NamedTuple):
    """Who holds a lease, and the how-manieth holder that is."""

    holder: str
    epoch: int


@contextmanager
def second_scheduler(state: State, **settings: str) -> Iterator[Mapping[str, str]]:
    """Run a replica of the stack's scheduler; give its environment.

    Without other settings it is a runner of the same node.
    """
    environment = environment_of(state.read().processes[FIRST].pid) | {
        "MODELYARD_GRPC__PORT": str(port_of(state, f"{SECOND}.grpc")),
        "MODELYARD_OPERATIONS__PORT": str(port_of(state, f"{SECOND}.operations")),
        "MODELYARD_RUNNER__NODE_CACHE_ROOT": str(state.folder(SECOND, "node-cache")),
        **{f"MODELYARD_{name}": value for name, value in settings.items()},
    }
    start(state, SECOND, environment)
    try:
        yield environment
    finally:
        stop(state, SECOND)


def start(state: State, part: str, environment: Mapping[str, str]) -> None:
    """Start a scheduler; return when it is ready."""
    launch_only(state, part, environment)
    until_ready(state, part)


def until_ready(state: State, part: str) -> None:
    """Wait until a scheduler that was started is ready."""
    record = state.read().processes[part]

    def is_ready() -> bool:
        require_alive(record, part=part)
        return is_healthy(record.address)

    until(is_ready, what=f"{part} is ready", within_s=_READY_MAX_S)


def launch_only(state: State, part: str, environment: Mapping[str, str]) -> None:
    """Start a scheduler and wait for nothing."""
    command = [sys.executable, "-m", "services.scheduler"]
    address = f"{LOOPBACK}:{environment['MODELYARD_OPERATIONS__PORT']}"
    program = Program(part, command, address, environment, CHECKOUT, stop_grace_s=_END_S_MAX)
    launch(state, program)


def kill(state: State, part: str) -> None:
    """End a scheduler without a word."""
    record = state.read().processes[part]
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not is_alive(record), what=f"{part} is gone")


def holder_of(environment: Mapping[str, str]) -> str | None:
    """Return as whom a living scheduler holds leases."""
    root = Path(environment["MODELYARD_RUNNER__NODE_CACHE_ROOT"])
    names = [path.name for path in (root / PROCESSES_FOLDER).glob("proc_*")]
    return names[0] if len(names) == 1 else None  # a killed one's is there until the next start


def leases(environment: Mapping[str, str]) -> Mapping[str, Lease]:
    """Return who holds what, of those leases that have not run out."""
    row = CHASSIS.lease
    query = sa.select(row.c.name, row.c.holder, row.c.epoch).where(
        row.c.expires_at > sa.func.clock_timestamp()
    )

    async def ask() -> Mapping[str, Lease]:
        engine = create_async_engine(environment["MODELYARD_POSTGRES__URL"])
        async with engine.connect() as connection:
            found = (await connection.execute(query)).all()
        await engine.dispose()
        return {each.name: Lease(each.holder, each.epoch) for each in found}

    return asynchronously.run(ask())


def log_of(state: State, part: str) -> str:
    """Return what a scheduler has written."""
    return Path(state.read().processes[part].log).read_text(errors="replace")
