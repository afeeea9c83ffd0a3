"""A scheduler's database with a line of the bench's making, and nodes that nobody runs.

Owns: the rows that stand in for many clients and many machines, written by the scheduler's own
repositories, and what the scheduler has made of them. Jobs come without the events of their
submissions, which would have left long before. Nodes have a heartbeat but no runner, so that what
is admitted stays ADMITTED.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from modelyard.scheduler.v1 import job_events_pb2
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.chassis.clock import SystemClock
from services.chassis.db.engine import autocommitting, open_engine
from services.chassis.db.unit_of_work import PostgresUnitOfWork as ChassisUnitOfWork
from services.chassis.ids import TimeOrderedIds
from services.chassis.settings import PostgresSettings
from services.chassis.tenancy import TenantId, tenant_id
from services.chassis.waiting import is_set_within
from services.scheduler.adapters.postgres.tables import (
    ATTEMPTS,
    CHASSIS,
    JOBS,
    LINE_CHANGES,
    NODES,
    USAGE,
)
from services.scheduler.adapters.postgres.unit_of_work import PostgresUnitOfWork
from services.scheduler.domain.attempts.attempt import OPEN
from services.scheduler.domain.identities import JobId, NodeId
from services.scheduler.domain.jobs.job import Job, JobState
from services.scheduler.domain.jobs.spec import JobSpec, JobTimeouts
from services.scheduler.domain.resources import Resources
from services.scheduler.entrypoints.facts import event_of
from tests.bench.queue_order import Admission, Amounts, Standing
from tests.bench.start import IMAGE

TENANTS: Final = tuple(tenant_id(f"bench-{number}") for number in range(4))
NODES_MAX: Final = 500
_ASKING: Final = (0, 0, 0, 0, 1, 2, 3)
"""Which tenant each seventh of the jobs is of: the first one asks for more than all others."""
_PRIORITY_PERIOD: Final = 49
_PRIORITIES: Final[Mapping[int, int]] = {7: 50, 23: 10}
"""Two jobs of each period are more urgent than all others, one more than the other."""
_MILLICORES: Final = (500, 500, 1_000, 1_000, 2_000)
_MILLICORES_MEAN: Final = sum(_MILLICORES) // len(_MILLICORES)
_BYTES_PER_MILLICORE: Final = 1 << 19
_NODE_BYTES_PER_MILLICORE: Final = 1 << 20
"""Twice what jobs ask for, so that cores are what nodes run out of, and what shares go by."""
_TASK: Final = Resources(8_000, 8_000 * _BYTES_PER_MILLICORE, 1)
_BATCH: Final = 500
_HEARTBEAT_INTERVAL_S: Final = 5.0
_SIMULATED: Final = "simulated-"
_ADMITTED: Final = "modelyard.job.admitted.v1"
_CREATED: Final = "modelyard.attempt.created.v1"
_STATEMENT_MAX: Final = timedelta(minutes=1)
_AMOUNTS: Final = ("cpu_millicores", "memory_bytes", "gpu_count")
# Rows that a cycle has locked are left out for once: neither waits for the other.
_HEARTBEAT: Final = sa.text(
    f"""
    UPDATE node SET heartbeat_at = clock_timestamp() WHERE id IN (
        SELECT id FROM node WHERE id LIKE '{_SIMULATED}%' FOR NO KEY UPDATE SKIP LOCKED
    )
    """
)


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admission as its events tell it, in the order in which they were written."""

    admission: Admission
    at: datetime
    """When its cycle began."""


@dataclass(frozen=True, slots=True)
class Line:
    """The line and its nodes, to be written and read."""

    engine: AsyncEngine
    unit_of_work: PostgresUnitOfWork
    ids: TimeOrderedIds

    async def has_node(self, node_id: NodeId) -> bool:
        """Tell whether a runner's node has joined."""
        async with autocommitting(self.engine).connect() as connection:
            found = sa.select(sa.exists().where(NODES.c.id == node_id))
            return bool(await connection.scalar(found))

    async def cordon(self, node_id: NodeId) -> None:
        """Let a runner's node take nothing."""
        async with self.unit_of_work.system(because="bench") as tx:
            node = await tx.nodes.get(node_id)
            await tx.nodes.save(node.cordoned(at=tx.now))

    async def empty(self) -> None:
        """Delete whatever an earlier round has left."""
        async with self.engine.begin() as connection:
            for table in (ATTEMPTS, JOBS, CHASSIS.outbox, LINE_CHANGES, USAGE):
                await connection.execute(sa.delete(table))
            await connection.execute(sa.delete(NODES).where(NODES.c.id.startswith(_SIMULATED)))
        await self._tidy()

    async def fill(self, count: int) -> Sequence[Standing]:
        """Put so many jobs in line; return them in the order of their coming."""
        numbers = range(count)
        for first in numbers[::_BATCH]:
            async with self.unit_of_work.system(because="bench") as tx:
                batch = numbers[first : first + _BATCH]
                await tx.jobs.add([self._job(number, at=tx.now) for number in batch])
        await self._tidy()
        return await self.queued()

    async def queued(self) -> Sequence[Standing]:
        """Return who stands in line, the first one to come first."""
        columns = (JOBS.c.id, JOBS.c.tenant, JOBS.c.priority, JOBS.c.queue_seq)
        query = (
            sa.select(*columns, *(JOBS.c[name] for name in _AMOUNTS))
            .where(JOBS.c.state == JobState.QUEUED)
            .order_by(JOBS.c.queue_seq)
        )
        async with autocommitting(self.engine).connect() as connection:
            rows = (await connection.execute(query)).all()
        run_max_s = JobTimeouts().run.total_seconds()
        return [
            Standing(id_, tenant, priority, seq, tuple(amounts), run_max_s)
            for id_, tenant, priority, seq, *amounts in rows
        ]

    async def add_nodes(self, *, room: int) -> Mapping[str, Amounts]:
        """Add nodes on which about so many jobs have room; return what each of them has."""
        count = min(NODES_MAX, -(-room * _MILLICORES_MEAN // max(_MILLICORES)))
        # Each holds whole jobs of each size, so that little is left over in the end.
        millicores = -(-room * _MILLICORES_MEAN // count // max(_MILLICORES)) * max(_MILLICORES)
        capacity = Resources(millicores, millicores * _NODE_BYTES_PER_MILLICORE)
        node_ids = await self._join(count, capacity)
        amounts = (capacity.cpu_millicores, capacity.memory_bytes, capacity.gpu_count)
        return dict.fromkeys(node_ids, amounts)

    async def fill_with_gang(self, *, tasks: int) -> JobId:
        """Put one job in line whose tasks each want a whole node of `add_nodes_for_tasks`."""
        async with self.unit_of_work.system(because="bench") as tx:
            job = self._job(0, at=tx.now)
            spec = replace(job.spec, resources=_TASK, task_count=tasks)
            await tx.jobs.add([replace(job, spec=spec)])
        return job.id

    async def add_nodes_for_tasks(self, count: int) -> None:
        """Add nodes that hold a task each."""
        await self._join(count, _TASK)

    async def seen_whole(self, job_id: JobId, *, tasks: int) -> float | None:
        """Return how long after its cycle's begin a job is seen with all attempts; None: not yet.

        That cycle's clock and this one's are one machine's.
        """
        query = (
            sa.select(JOBS.c.admitted_at, sa.func.count())
            .join(ATTEMPTS, ATTEMPTS.c.owner_id == JOBS.c.id)
            .where(JOBS.c.id == job_id)
            .group_by(JOBS.c.admitted_at)
        )
        async with autocommitting(self.engine).connect() as connection:
            found = (await connection.execute(query)).one_or_none()
        if found is None:
            return None
        admitted_at, count = found
        assert count == tasks, "all of its tasks are admitted, or none"
        return float((SystemClock().now() - admitted_at).total_seconds())

    async def _join(self, count: int, capacity: Resources) -> Sequence[NodeId]:
        """Let nodes join, all of them at once."""
        node_ids = [NodeId(f"{_SIMULATED}{number:03}") for number in range(count)]
        async with self.unit_of_work.system(because="bench") as tx:
            for node_id in node_ids:
                await tx.nodes.register(
                    node_id, capacity, runtime="docker", allows_mixed_tenants=True
                )
        return node_ids

    @asynccontextmanager
    async def heartbeats(self) -> AsyncIterator[None]:
        """Keep the nodes alive."""
        stopping = asyncio.Event()

        async def beat() -> None:
            while not await is_set_within(stopping, _HEARTBEAT_INTERVAL_S):
                async with self.engine.begin() as connection:
                    await connection.execute(_HEARTBEAT)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(beat())
            try:
                yield
            finally:
                stopping.set()

    async def attempt_count(self) -> int:
        """Count what was admitted."""
        async with autocommitting(self.engine).connect() as connection:
            count = sa.select(sa.func.count()).select_from(ATTEMPTS)
            return await connection.scalar(count) or 0

    async def unpublished_count(self) -> int:
        """Count the events that have not left yet."""
        async with autocommitting(self.engine).connect() as connection:
            unpublished = CHASSIS.outbox.c.published_at.is_(None)
            count = sa.select(sa.func.count()).select_from(CHASSIS.outbox).where(unpublished)
            return await connection.scalar(count) or 0

    async def admitted(self) -> Sequence[Admitted]:
        """Return all admissions by their events: each job's is followed by its attempt's."""
        outbox = CHASSIS.outbox
        query = (
            sa.select(outbox.c.aggregateid, outbox.c.type, outbox.c.payload, outbox.c.time)
            .where(outbox.c.type.in_([_ADMITTED, _CREATED]))
            .order_by(outbox.c.seq)
        )
        async with autocommitting(self.engine).connect() as connection:
            rows = (await connection.execute(query)).all()
        found = []
        for of_job, of_attempt in zip(rows[::2], rows[1::2], strict=True):
            assert (of_job.type, of_attempt.type) == (_ADMITTED, _CREATED)
            fact = job_events_pb2.AttemptTransitioned.FromString(of_attempt.payload)
            assert fact.owner_id == of_job.aggregateid, "an attempt is of the job admitted with it"
            found.append(Admitted(Admission(fact.owner_id, fact.node_id), of_job.time))
        return found

    async def check(self, admitted: Sequence[Admitted], *, queued: int) -> None:
        """Check that the rows say what the events say, and that nothing else happened."""
        async with autocommitting(self.engine).connect() as connection:
            assert await connection.scalar(sa.text("SHOW fsync")) == "on"
            states = await connection.execute(
                sa.select(JOBS.c.state, JOBS.c.attempt_number, sa.func.count()).group_by(
                    JOBS.c.state, JOBS.c.attempt_number
                )
            )
            found = {(state, number): count for state, number, count in states}
            expected = {(JobState.ADMITTED, 1): len(admitted), (JobState.QUEUED, 0): queued}
            assert found == {state: count for state, count in expected.items() if count}, found
            attempts = await connection.execute(
                sa.select(ATTEMPTS.c.owner_id, ATTEMPTS.c.node_id).where(ATTEMPTS.c.state.in_(OPEN))
            )
            placed = [Admission(row.owner_id, row.node_id) for row in attempts]
            assert len(placed) == len(admitted), "one attempt a job"
            assert set(placed) == {each.admission for each in admitted}, "events and attempts agree"
            assert await _booked(connection) == await _held(connection), "each node's sum is right"

    async def _tidy(self) -> None:
        """Let the database know its rows, as it would by itself a minute later."""
        async with autocommitting(self.engine).connect() as connection:
            await connection.execute(sa.text("VACUUM ANALYZE"))

    def _job(self, number: int, *, at: datetime) -> Job:
        millicores = _MILLICORES[number % len(_MILLICORES)]
        spec = JobSpec(
            name=f"bench-{number}",
            image=IMAGE,
            command=("/bin/sleep", "3600"),
            resources=Resources(millicores, millicores * _BYTES_PER_MILLICORE),
            priority=_PRIORITIES.get(number % _PRIORITY_PERIOD, 0),
        )
        spec.check()
        job, _ = Job.queued(
            JobId(self.ids.new("job")),
            _tenant_of(number),
            spec,
            at=at,
            # One in ten is recorded.
            traceparent=f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-0{number % 10 == 0:d}",
        )
        return job


@asynccontextmanager
async def open_line(scheduler: Mapping[str, str]) -> AsyncIterator[Line]:
    """Give the line of the scheduler that runs, or ran, in this environment."""
    settings = PostgresSettings(
        url=SecretStr(scheduler["MODELYARD_POSTGRES__URL"]), statement_timeout=_STATEMENT_MAX
    )
    clock = SystemClock()
    ids = TimeOrderedIds(clock)
    async with open_engine(settings, application_name="bench") as engine:
        inner = ChassisUnitOfWork(engine, CHASSIS, source="/scheduler", clock=clock, ids=ids)
        yield Line(engine, PostgresUnitOfWork(inner, event_of), ids)


def _tenant_of(number: int) -> TenantId:
    return TENANTS[_ASKING[number % len(_ASKING)]]


async def _booked(connection: AsyncConnection) -> Mapping[str, Amounts]:
    """Return what the nodes' rows say is used, of those where anything is."""
    used = [NODES.c[f"used_{name}"] for name in _AMOUNTS]
    rows = await connection.execute(sa.select(NODES.c.id, *used).where(used[0] > 0))
    return {node_id: tuple(amounts) for node_id, *amounts in rows}


async def _held(connection: AsyncConnection) -> Mapping[str, Amounts]:
    """Return what the open attempts on each node take together."""
    sums = [sa.cast(sa.func.sum(ATTEMPTS.c[name]), sa.BigInteger) for name in _AMOUNTS]
    query = sa.select(ATTEMPTS.c.node_id, *sums).where(ATTEMPTS.c.state.in_(OPEN))
    rows = await connection.execute(query.group_by(ATTEMPTS.c.node_id))
    return {node_id: tuple(amounts) for node_id, *amounts in rows}
