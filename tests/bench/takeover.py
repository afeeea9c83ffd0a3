"""`takeover`: how long nothing is admitted once the leading scheduler is killed.

Two schedulers on one database. The one that leads is killed with SIGKILL, and at once a job is
submitted to the other: nobody but it can admit the job. Then the killed one is started again, and
the other is the next to die.

    takeover.s                from the kill to the admission, as its fact says: the longest of all

The store is asked afterwards: the lease had a new holder for each kill, and each job was admitted
once.
"""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa
from modelyard.common.v1 import resources_pb2
from modelyard.scheduler.v1 import job_pb2
from modelyard.scheduler.v1 import job_service_pb2 as pb
from sqlalchemy.ext.asyncio import create_async_engine

from deploy.local.ports import LOOPBACK
from deploy.local.processes import environment_of
from deploy.local.runtimes import Kind
from deploy.local.state import State
from services.chassis.rpc.context import acting_as
from services.chassis.tenancy import Principal, tenant_id
from services.scheduler.adapters.postgres.tables import CHASSIS
from services.scheduler.settings import SchedulingSettings
from tests.bench.figures import print_figures, print_table, say
from tests.bench.scheduler_calls import open_jobs
from tests.bench.start import IMAGE, platform
from tests.support.eventually import eventually
from tests.support.schedulers import (
    FIRST,
    SCHEDULING,
    SECOND,
    kill,
    leases,
    second_scheduler,
    start,
)

KILLS: Final = 8
"""`make bench T=takeover KILLS=…` for another count."""
LEASE_S: Final = SchedulingSettings().lease_ttl.total_seconds()
_ADMITTED: Final = "modelyard.job.admitted.v1"
_CALLER: Final = Principal(tenant_id("bench"), "key:bench", frozenset({"jobs:write"}))


def main() -> None:
    """Measure on a stack of the bench's own."""
    count = int(os.environ.get("KILLS", KILLS))
    with platform(Kind.PROCESS) as (_, state):
        running = state.read().processes
        first = environment_of(running[FIRST].pid)
        gateway = environment_of(running["api_gateway"].pid)
        with second_scheduler(state) as second:
            replicas = [(FIRST, first), (SECOND, dict(second))]
            epoch = leases(first)[SCHEDULING].epoch
            waits_s = []
            for _ in range(count):
                waits_s.append(_kill_leader(state, replicas, gateway))
                replicas.reverse()
            assert leases(first)[SCHEDULING].epoch == epoch + count, "a new holder for each kill"
            asyncio.run(_check_stored(first, kills=count))
    print_table(f"{count} kills of the leader: to the next admission", [("s", waits_s)], unit="s")
    say(f"  the lease lasts {LEASE_S:g} s")
    say(f"  at most {max(waits_s) / LEASE_S:.2f} of its periods")
    print_figures("takeover", {"s": max(waits_s)})


def _kill_leader(
    state: State, replicas: Sequence[tuple[str, Mapping[str, str]]], gateway: Mapping[str, str]
) -> float:
    """Kill the first of two replicas and start it again; return how long nothing was admitted."""
    (leader, environment), (_, heirs) = replicas
    killed_at = time.time()
    kill(state, leader)
    admitted_at = asyncio.run(_admission(heirs, gateway))
    start(state, leader, environment)
    return admitted_at.timestamp() - killed_at


async def _admission(heirs: Mapping[str, str], gateway: Mapping[str, str]) -> datetime:
    """Submit a job; return when it was admitted."""
    address = f"{LOOPBACK}:{heirs['MODELYARD_GRPC__PORT']}"
    async with open_jobs({**gateway, "MODELYARD_SCHEDULER__ADDRESS": address}) as jobs:
        with acting_as(_CALLER):
            job = (await jobs.submit(_asked(), key=None)).job
    outbox = CHASSIS.outbox
    query = sa.select(outbox.c.time).where(
        outbox.c.aggregateid == job.id, outbox.c.type == _ADMITTED
    )
    engine = create_async_engine(heirs["MODELYARD_POSTGRES__URL"])
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")

        async def admitted_at() -> datetime | None:
            return (await connection.scalars(query)).one_or_none()

        found = await eventually(admitted_at, what=f"{job.id} is admitted")
    await engine.dispose()
    return found.astimezone(UTC)


def _asked() -> pb.SubmitJobRequest:
    little = resources_pb2.Resources(cpu_millicores=100, memory_bytes=64 << 20)
    spec = job_pb2.JobSpec(name="bench", image=IMAGE, command=["/bin/true"], resources=little)
    return pb.SubmitJobRequest(spec=spec)


async def _check_stored(environment: Mapping[str, str], *, kills: int) -> None:
    """Check that each job has one admission."""
    outbox = CHASSIS.outbox
    engine = create_async_engine(environment["MODELYARD_POSTGRES__URL"])
    async with engine.connect() as connection:
        query = (
            sa.select(sa.func.count())
            .where(outbox.c.type == _ADMITTED)
            .group_by(outbox.c.aggregateid)
        )
        admissions = list(await connection.scalars(query))
    await engine.dispose()
    assert admissions == [1] * kills, f"admissions by job: {admissions}"
