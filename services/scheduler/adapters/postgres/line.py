"""Who waits for capacity, in PostgreSQL.

Who comes into line, leaves it or changes in it is noted by triggers in `line_change`, in the same
commit (migration 0011). The leader takes the notes by deleting them, whatever their number and
their age: so it misses nothing of who commits late, and what it had taken in a transaction that
fails is there again.
"""

import dataclasses
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.db.statements import take_turns
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.postgres.rows import (
    from_resources,
    is_one_of,
    maybe_from_document,
    to_resources,
)
from services.scheduler.adapters.postgres.tables import (
    DEPLOYMENTS,
    JOBS,
    LINE_CHANGES,
    QUEUES,
    REPLICAS,
    USAGE,
)
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.deployments.replica import ReplicaState
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.jobs.spec import JobTimeouts
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.line import Head, LineChange, Shape, Totals, Waiting
from services.scheduler.domain.scheduling.place import Standing
from services.scheduler.domain.scheduling.shares import Average, Averages
from services.scheduler.use_cases.ports import LineNews

_ROWS_AT_ONCE: Final = 1_000
_AMOUNTS: Final = tuple(from_resources(Resources()))
_IS_JOB_QUEUED: Final = JOBS.c.state == JobState.QUEUED
_IS_JOB_IN_LINE: Final = sa.and_(_IS_JOB_QUEUED, JOBS.c.needs_count == 0)
"""Whose turn can come; who waits for other jobs stands in line for its tenant's bound alone."""
_IS_REPLICA_IN_LINE: Final = REPLICAS.c.state == ReplicaState.QUEUED
_JOB: Final = (
    JOBS.c.tenant,
    JOBS.c.priority,
    JOBS.c.queue_seq,
    *(JOBS.c[name] for name in _AMOUNTS),
    JOBS.c.spec["timeouts"].label("timeouts"),
    JOBS.c.queue,
    JOBS.c.retry_at,
    JOBS.c.task_count,
)
_REPLICA: Final = (
    REPLICAS.c.tenant,
    sa.literal(0).label("priority"),
    REPLICAS.c.queue_seq,
    *(DEPLOYMENTS.c[name] for name in _AMOUNTS),
    sa.cast(sa.null(), JSONB).label("timeouts"),
    sa.literal("").label("queue"),
    sa.cast(sa.null(), JOBS.c.retry_at.type).label("retry_at"),
    sa.literal(1).label("task_count"),
)
_OF_DEPLOYMENTS: Final = REPLICAS.join(DEPLOYMENTS, DEPLOYMENTS.c.id == REPLICAS.c.deployment_id)


def _kind(kind: OwnerKind) -> sa.Label[str]:
    return sa.literal(kind.value).label("kind")


_QUEUED_JOBS: Final = sa.select(_kind(OwnerKind.JOB), JOBS.c.id, *_JOB).where(_IS_JOB_IN_LINE)
_QUEUED_REPLICAS: Final = (
    sa.select(_kind(OwnerKind.REPLICA), REPLICAS.c.id, *_REPLICA)
    .select_from(_OF_DEPLOYMENTS)
    .where(_IS_REPLICA_IN_LINE)
)
_EVERYBODY: Final = sa.union_all(_QUEUED_JOBS, _QUEUED_REPLICAS).execution_options(
    yield_per=_ROWS_AT_ONCE
)

# One statement sees one instant: what it takes, how that stands now, and what the totals are then.
_CTID: Final[sa.ColumnElement[Any]] = sa.literal_column("ctid")
_FORGET: Final = sa.delete(LINE_CHANGES).where(
    sa.any_(
        sa.func.array(
            sa.select(_CTID)
            .select_from(LINE_CHANGES.alias("note"))
            .limit(sa.bindparam("changes_max", type_=sa.Integer))
            .scalar_subquery()
        )
    )
    == _CTID
)
_TAKEN: Final = _FORGET.returning(LINE_CHANGES.c.kind, LINE_CHANGES.c.id).cte("taken")
_CHANGED: Final = sa.select(_TAKEN.c.kind, _TAKEN.c.id).distinct().cte("changed")
_TAKEN_COUNT: Final = (
    sa.select(sa.func.count()).select_from(_TAKEN).scalar_subquery().label("count")
)
_CHANGED_JOBS: Final = (
    sa.select(_CHANGED.c.kind, _CHANGED.c.id, *_JOB, _TAKEN_COUNT)
    .select_from(_CHANGED.outerjoin(JOBS, sa.and_(JOBS.c.id == _CHANGED.c.id, _IS_JOB_IN_LINE)))
    .where(_CHANGED.c.kind == OwnerKind.JOB.value)
)
_CHANGED_REPLICAS: Final = (
    sa.select(_CHANGED.c.kind, _CHANGED.c.id, *_REPLICA, _TAKEN_COUNT)
    .select_from(
        _CHANGED.outerjoin(
            _OF_DEPLOYMENTS, sa.and_(REPLICAS.c.id == _CHANGED.c.id, _IS_REPLICA_IN_LINE)
        )
    )
    .where(_CHANGED.c.kind == OwnerKind.REPLICA.value)
)
_IN_LINE: Final = sa.union_all(
    sa.select(JOBS.c.queue_seq).where(_IS_JOB_IN_LINE),
    sa.select(REPLICAS.c.queue_seq).where(_IS_REPLICA_IN_LINE),
).subquery("in_line")
_IS_TOTALS: Final = "TOTALS"
_TOTALS: Final = sa.select(
    sa.literal(_IS_TOTALS),
    sa.literal(""),
    sa.null(),
    sa.null(),
    sa.cast(sa.func.coalesce(sa.func.sum(_IN_LINE.c.queue_seq), 0), sa.BigInteger),
    *(sa.null() for _ in _AMOUNTS),
    sa.null(),
    sa.null(),
    sa.null(),
    sa.null(),
    sa.func.count(),
).select_from(_IN_LINE)
_NEWS: Final = sa.union_all(_CHANGED_JOBS, _CHANGED_REPLICAS)
_NEWS_WITH_TOTALS: Final = sa.union_all(_CHANGED_JOBS, _CHANGED_REPLICAS, _TOTALS)

_FIRST_TENANT: Final = (
    sa.select(sa.func.min(JOBS.c.tenant).label("tenant")).where(_IS_JOB_IN_LINE).cte(recursive=True)
)
_NEXT_TENANT: Final = (
    sa.select(sa.func.min(JOBS.c.tenant))
    .where(_IS_JOB_IN_LINE, JOBS.c.tenant > _FIRST_TENANT.c.tenant)
    .scalar_subquery()
)
_TENANTS: Final = _FIRST_TENANT.union_all(
    sa.select(_NEXT_TENANT).where(_FIRST_TENANT.c.tenant.is_not(None))
)
"""Of those with jobs in line; by the index, from one to the next, instead of through all jobs."""
_THEIR_FIRST: Final = (
    _QUEUED_JOBS.where(
        JOBS.c.tenant == _TENANTS.c.tenant,
        sa.or_(JOBS.c.retry_at.is_(None), JOBS.c.retry_at <= sa.bindparam("at")),
    )
    .order_by(JOBS.c.priority.desc(), JOBS.c.queue_seq)
    .limit(sa.bindparam("heads_max", type_=sa.Integer))
    .lateral("first")
)
_FIRST: Final = sa.union_all(
    sa.select(_THEIR_FIRST).select_from(_TENANTS.join(_THEIR_FIRST, sa.true())),
    _QUEUED_REPLICAS.order_by(REPLICAS.c.queue_seq).limit(
        sa.bindparam("heads_max", type_=sa.Integer)
    ),
)
_IN_LINE_ALIKE: Final = (
    sa.select(JOBS.c.tenant, JOBS.c.priority, sa.func.count().label("job_count"))
    .where(_IS_JOB_QUEUED)
    .group_by(JOBS.c.tenant, JOBS.c.priority)
)
"""By an index alone, where that is clean: some 10 ms for 100,000 in line."""
_OWN: Final = JOBS.alias("own")
_OWN_PLACE: Final = sa.select(
    _OWN.c.tenant,
    _OWN.c.priority,
    sa.select(sa.func.count())
    .where(
        _IS_JOB_QUEUED,
        JOBS.c.tenant == _OWN.c.tenant,
        JOBS.c.priority == _OWN.c.priority,
        JOBS.c.queue_seq < _OWN.c.queue_seq,
    )
    .scalar_subquery()
    .label("own_count"),
).where(_OWN.c.id == sa.bindparam("job_id"))
_PAUSED: Final = sa.select(QUEUES.c.tenant, QUEUES.c.name)
_QUEUED_COUNTS: Final = (
    sa.select(JOBS.c.tenant, sa.func.count().label("job_count"))
    .where(is_one_of(JOBS.c.tenant, "tenants"), _IS_JOB_QUEUED)
    .group_by(JOBS.c.tenant)
)


class PostgresLine:
    """Who waits for capacity; implements `ports.Line`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def queued_counts(self, tenants: Sequence[TenantId]) -> Mapping[TenantId, int]:
        """Count jobs in line, alone: the bound is exact, however many submit at once."""
        if not tenants:
            return {}
        await take_turns(self._connection, [f"line of {tenant}" for tenant in tenants])
        return await self._counts(tenants)

    async def queued_count(self, tenant: TenantId) -> int:
        """Count a tenant's jobs in line as they are just now."""
        return (await self._counts([tenant])).get(tenant, 0)

    async def standing(self, job_id: JobId) -> Standing:
        """Return how many jobs stand before one in line, and beside it."""
        own = (await self._connection.execute(_OWN_PLACE, {"job_id": job_id})).one_or_none()
        if own is None:
            return Standing()
        counts = (await self._connection.execute(_IN_LINE_ALIKE)).all()
        return Standing(
            above_count=sum(row.job_count for row in counts if row.priority > own.priority),
            own_count=own.own_count,
            others={
                TenantId(row.tenant): row.job_count
                for row in counts
                if row.priority == own.priority and row.tenant != own.tenant
            },
        )

    async def paused(self) -> Collection[tuple[TenantId, str]]:
        """Return all queues that are paused."""
        found = await self._connection.execute(_PAUSED)
        return {(TenantId(row.tenant), row.name) for row in found}

    async def first(self, *, at: datetime, limit: int) -> Sequence[Head]:
        """Return each tenant's first jobs, and the first replicas."""
        found = await self._connection.execute(_FIRST, {"at": at, "heads_max": limit})
        return [to_waiting(row).head for row in found.mappings()]

    async def everybody(self) -> AsyncIterator[Sequence[Waiting]]:
        """Return all who wait, some after others."""
        async with self._connection.stream(_EVERYBODY) as found:
            async for rows in found.mappings().partitions():
                yield [to_waiting(row) for row in rows]

    async def forget_news(self, *, limit: int) -> bool:
        """Delete notes; return whether there may be more."""
        deleted = await self._connection.execute(_FORGET, {"changes_max": limit})
        return deleted.rowcount == limit

    async def take_news(self, *, limit: int, with_totals: bool) -> LineNews:
        """Return what has changed, and delete the notes of it."""
        query = _NEWS_WITH_TOTALS if with_totals else _NEWS
        rows = (await self._connection.execute(query, {"changes_max": limit})).mappings().all()
        told = [row for row in rows if row["kind"] != _IS_TOTALS]
        totals = [
            Totals(row["count"], row["queue_seq"]) for row in rows if row["kind"] == _IS_TOTALS
        ]
        return LineNews(
            [to_change(row) for row in told],
            is_cut=bool(told) and told[0]["count"] == limit,
            totals=totals[0] if totals else None,
        )

    async def _counts(self, tenants: Sequence[TenantId]) -> Mapping[TenantId, int]:
        found = await self._connection.execute(_QUEUED_COUNTS, {"tenants": list(tenants)})
        return {TenantId(row.tenant): row.job_count for row in found}


class PostgresUsage:
    """What tenants held lately; implements `ports.KeptUsage`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def averages(self) -> Averages:
        """Return it as it was last kept."""
        rows = (await self._connection.execute(sa.select(USAGE))).mappings().all()
        return Averages(
            {TenantId(row["tenant"]): to_average(row) for row in rows},
            at=max((row["as_of"] for row in rows), default=None),
        )

    async def keep(self, averages: Averages) -> None:
        """Keep this instead of what was kept."""
        await self._connection.execute(sa.delete(USAGE))
        rows = [
            {"tenant": tenant, "as_of": averages.at, **from_average(each)}
            for tenant, each in averages.by_tenant.items()
        ]
        if rows:
            await self._connection.execute(sa.insert(USAGE), rows)


def to_waiting(row: sa.RowMapping) -> Waiting:
    """Return who waits in a row; one without time-outs is no job."""
    timeouts = maybe_from_document(JobTimeouts, row["timeouts"])
    shape = Shape(
        OwnerKind(row["kind"]),
        TenantId(row["tenant"]),
        row["priority"],
        to_resources(row),
        run_max=None if timeouts is None else timeouts.run,
        queue=row["queue"],
        task_count=row["task_count"],
    )
    return Waiting(Head(row["id"], row["queue_seq"], shape), not_before=row["retry_at"])


def to_change(row: sa.RowMapping) -> LineChange:
    """Return how one stands now whose row was found, or not."""
    return LineChange(row["id"], None if row["tenant"] is None else to_waiting(row))


def from_average(average: Average) -> dict[str, float]:
    """Return the columns of an average."""
    return dataclasses.asdict(average)


def to_average(row: sa.RowMapping) -> Average:
    """Return the average in a row."""
    return Average(row["cpu_millicores"], row["memory_bytes"], row["gpu_count"])
