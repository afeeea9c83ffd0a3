"""`submit`: how many jobs a second are taken in for good.

Sixteen clients of four tenants submit through gRPC, each the next one as soon as it is answered, to
a scheduler on a real PostgreSQL with fsync; every submission has an idempotency key. In turn the
same scheduler does it with one transaction a request. One job fills the node, so that all others
stand in line, where the scheduling cycle looks at them after each commit as it does at any time.

    submit.durable_per_s             the median of the rounds
    submit.ratio_to_single_commit    the same over that with one transaction a request
    submit.p99_ms                    from a request's sending to its answer, all rounds together

The store is asked afterwards: each answered job has its row, its event and its idempotency row.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from modelyard.common.v1 import resources_pb2
from modelyard.scheduler.v1 import job_pb2
from modelyard.scheduler.v1 import job_service_pb2 as pb
from sqlalchemy.ext.asyncio import create_async_engine

from deploy.local.processes import environment_of, stop
from deploy.local.runtimes import Kind
from deploy.local.state import State
from services.api_gateway.adapters.scheduler_client import GrpcJobs
from services.chassis.rpc.context import acting_as
from services.chassis.tenancy import Principal, tenant_id
from services.scheduler.adapters.postgres.tables import CHASSIS, JOBS
from tests.bench.figures import median, percentile, print_figures, print_table, say
from tests.bench.scheduler_calls import open_jobs
from tests.bench.start import IMAGE, platform
from tests.support.schedulers import FIRST, start

COUNT: Final = 4000
"""Submissions of a round; `make bench T=submit SUBMISSIONS=…` for another count."""
ROUNDS: Final = 3
CLIENTS: Final = 16
TENANTS: Final = 4
WARM_UP_COUNT: Final = 200
TOGETHER_MAX: Final = "MODELYARD_ADMISSION__SUBMISSIONS_TOGETHER_MAX"
SETTINGS: Final = {
    "MODELYARD_ADMISSION__QUEUED_JOBS_MAX": "10000000",
    "MODELYARD_TELEMETRY__SAMPLE_RATIO": "0.1",
}


@dataclass(frozen=True, slots=True)
class Round:
    """One round's submissions."""

    job_ids: Sequence[str]
    rate: float
    latencies_ms: Sequence[float]


@dataclass(frozen=True, slots=True)
class _Asked:
    """How the scheduler is asked, and for what: all that its node has, for an hour."""

    gateway: Mapping[str, str]
    resources: resources_pb2.Resources

    def request(self, name: str) -> pb.SubmitJobRequest:
        """Return what is asked for."""
        command = ["/bin/sleep", "3600"]
        spec = job_pb2.JobSpec(name=name, image=IMAGE, command=command, resources=self.resources)
        return pb.SubmitJobRequest(spec=spec)


def main() -> None:
    """Measure on a stack of the bench's own."""
    count = int(os.environ.get("SUBMISSIONS", COUNT)) // CLIENTS * CLIENTS
    with platform(Kind.PROCESS) as (_, state):
        running = state.read().processes
        environment = environment_of(running[FIRST].pid) | SETTINGS
        gateway = environment_of(running["api_gateway"].pid)
        asked = _Asked(gateway, _all_of_node(environment))
        asyncio.run(_fill_node(asked))
        together: list[Round] = []
        alone: list[Round] = []
        for number in range(ROUNDS):
            # First one of both, then the other: the line grows longer from round to round.
            turns: list[tuple[list[Round], dict[str, str]]]
            turns = [(together, {}), (alone, {TOGETHER_MAX: "1"})]
            for rounds, setting in turns if number % 2 == 0 else turns[::-1]:
                _restart(state, environment | setting)
                asyncio.run(_round(asked, count=WARM_UP_COUNT))
                rounds.append(asyncio.run(_round(asked, count=count)))
        asyncio.run(_check_stored(environment, [*together, *alone]))
    _print(together, alone, count=count)


def _restart(state: State, environment: Mapping[str, str]) -> None:
    stop(state, FIRST)
    start(state, FIRST, environment)


async def _fill_node(asked: _Asked) -> None:
    """Let one job take all that its node has."""
    async with open_jobs(asked.gateway) as jobs:
        with acting_as(_caller(0)):
            await jobs.submit(asked.request("fills the node"), key=None)


async def _round(asked: _Asked, *, count: int) -> Round:
    job_ids: list[str] = []
    latencies_ms: list[float] = []

    async def client(jobs: GrpcJobs, number: int) -> None:
        request = asked.request(f"bench-{number}")
        with acting_as(_caller(number)):
            for _ in range(count // CLIENTS):
                sent_at = time.perf_counter()
                answer = await jobs.submit(request, key=secrets.token_hex(12))
                latencies_ms.append((time.perf_counter() - sent_at) * 1e3)
                job_ids.append(answer.job.id)

    async with open_jobs(asked.gateway) as jobs:
        begins_at = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS):
                tasks.create_task(client(jobs, number))
        return Round(job_ids, len(job_ids) / (time.perf_counter() - begins_at), latencies_ms)


def _caller(number: int) -> Principal:
    tenant = tenant_id(f"bench-{number % TENANTS}")
    return Principal(tenant, "key:bench", frozenset({"jobs:write"}))


def _all_of_node(scheduler: Mapping[str, str]) -> resources_pb2.Resources:
    return resources_pb2.Resources(
        cpu_millicores=int(scheduler["MODELYARD_RUNNER__CPU_MILLICORES"]),
        memory_bytes=int(scheduler["MODELYARD_RUNNER__MEMORY_BYTES"]),
    )


async def _check_stored(environment: Mapping[str, str], rounds: Sequence[Round]) -> None:
    """Count what is in the store of what was answered."""
    answered = [job_id for each in rounds for job_id in each.job_ids]
    assert len(set(answered)) == len(answered), "each submission made a job of its own"
    given = sa.bindparam("job_ids", answered, type_=sa.ARRAY(sa.Text))
    outbox, keys = CHASSIS.outbox, CHASSIS.idempotency
    counts = {
        "job": sa.select(sa.func.count()).where(JOBS.c.id == sa.any_(given)),
        "event": sa.select(sa.func.count()).where(outbox.c.aggregateid == sa.any_(given)),
        "key": sa.select(sa.func.count()).where(
            sa.func.convert_from(keys.c.response, "UTF8") == sa.any_(given)
        ),
    }
    engine = create_async_engine(environment["MODELYARD_POSTGRES__URL"])
    async with engine.connect() as connection:
        assert await connection.scalar(sa.text("SHOW fsync")) == "on"
        for what, query in counts.items():
            found = await connection.scalar(query)
            assert found == len(answered), f"{found} {what} rows for {len(answered)} answers"
    await engine.dispose()


def _print(together: Sequence[Round], alone: Sequence[Round], *, count: int) -> None:
    title = f"{count} submissions a round, {CLIENTS} clients, {TENANTS} tenants: request to answer"
    latencies = [
        (name, [each for one in rounds for each in one.latencies_ms])
        for name, rounds in (("together", together), ("one transaction each", alone))
    ]
    print_table(title, latencies, unit="ms")
    rates = [median([each.rate for each in rounds]) for rounds in (together, alone)]
    shown = [", ".join(f"{each.rate:.0f}" for each in rounds) for rounds in (together, alone)]
    say(f"  a second, round by round: together {shown[0]}; one transaction each {shown[1]}")
    print_figures(
        "submit",
        {
            "durable_per_s": rates[0],
            "ratio_to_single_commit": rates[0] / rates[1],
            "p99_ms": percentile(latencies[0][1], 99),
        },
    )
