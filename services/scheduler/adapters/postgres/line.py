"""Who waits for capacity, in PostgreSQL.

Who comes into line, leaves it or changes in it is noted by triggers in `line_change`, in the same
commit (migration 0011). The leader takes the notes by deleting them, whatever their number and
their age: so it misses nothing of who commits late, and what it had taken in a transaction that
fails is there again. Each note says also by how much it changes the count of those that are alike
and stand close together; a trigger adds that up as notes are deleted (migration 0016).
"""

import dataclasses
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.db.statements import take_turns
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.postgres.rows import (
    from_document,
    from_resources,
    is_one_of,
    maybe_from_document,
    to_resources,
)
from services.scheduler.adapters.postgres.tables import (
    DEPLOYMENTS,
    JOBS,
    LINE_CHANGES,
    LINE_COUNTS,
    QUEUES,
    REPLICAS,
    STRETCH_BITS,
    USAGE,
)
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.deployments.replica import ReplicaState
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.jobs.spec import PRIORITY_MAX, JobTimeouts
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.line import Head, LineChange, Shape, Totals, Waiting
from services.scheduler.domain.scheduling.place import Standing
from services.scheduler.domain.scheduling.shares import Average, Averages
from services.scheduler.use_cases.ports import (
    FIRST_JOBS_MAX,
    FIRST_REPLICAS_MAX,
    FIRST_SHAPES_MAX,
    FirstInLine,
    LineNews,
)

_ROWS_AT_ONCE: Final = 1_000
_AMOUNTS: Final = tuple(from_resources(Resources()))
# Written out, as in the indexes: a plan for any state would use none of those that are of this one.
_IS_JOB_QUEUED: Final = JOBS.c.state == sa.literal_column(f"'{JobState.QUEUED}'")
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
    JOBS.c.array_index,
    JOBS.c.rest_count,
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
    sa.literal(0).label("array_index"),
    sa.literal(1).label("rest_count"),
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
    sa.select(JOBS.c.queue_seq, JOBS.c.rest_count).where(_IS_JOB_IN_LINE),
    sa.select(REPLICAS.c.queue_seq, sa.literal(1)).where(_IS_REPLICA_IN_LINE),
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
    sa.null(),
    sa.null(),
    sa.cast(sa.func.coalesce(sa.func.sum(_IN_LINE.c.rest_count), 0), sa.BigInteger),
).select_from(_IN_LINE)
_NEWS: Final = sa.union_all(_CHANGED_JOBS, _CHANGED_REPLICAS)
_NEWS_WITH_TOTALS: Final = sa.union_all(_CHANGED_JOBS, _CHANGED_REPLICAS, _TOTALS)


def _is_paused(table: sa.FromClause) -> sa.ColumnElement[bool]:
    is_its_queue = sa.and_(QUEUES.c.tenant == table.c.tenant, QUEUES.c.name == table.c.queue)
    return sa.exists().where(is_its_queue)


_STRETCH_BITS: Final[sa.ColumnElement[int]] = sa.literal_column(str(STRETCH_BITS), sa.Integer)
_KEY: Final = tuple(column.name for column in LINE_COUNTS.primary_key)
_SHAPE: Final = tuple(name for name in _KEY if name != "stretch")
_JOBS_KEY: Final[Mapping[str, sa.ColumnElement[Any]]] = {
    **{name: JOBS.c[name] for name in _KEY if name in JOBS.c},
    "run_max": sa.func.coalesce(JOBS.c.spec[("timeouts", "run")].astext, "").label("run_max"),
    "stretch": JOBS.c.queue_seq.bitwise_rshift(_STRETCH_BITS).label("stretch"),
}
"""What a job in line is counted by, as the note of it has it (migration 0016)."""
_COUNTED: Final = sa.union_all(
    sa.select(*(LINE_COUNTS.c[name] for name in _KEY), LINE_COUNTS.c.job_count),
    sa.select(
        *(LINE_CHANGES.c[name] for name in _KEY), LINE_CHANGES.c.change.label("job_count")
    ).where(LINE_CHANGES.c.change.is_not(None)),
).subquery("counted")
"""What was counted and what has changed since then, as of one instant: the sum is always right."""
# As of one instant: a row and the note of it are committed together.
_ARE_COUNTS_RIGHT: Final = sa.select(
    sa.select(sa.func.coalesce(sa.func.sum(_COUNTED.c.job_count), 0)).scalar_subquery()
    == sa.select(sa.func.coalesce(sa.func.sum(JOBS.c.rest_count), 0))
    .where(_IS_JOB_IN_LINE)
    .scalar_subquery()
)
_UNTOLD: Final = sa.union_all(
    sa.select(*(_JOBS_KEY[name] for name in _KEY), JOBS.c.rest_count.label("job_count")).where(
        _IS_JOB_IN_LINE
    ),
    sa.select(*(LINE_CHANGES.c[name] for name in _KEY), -LINE_CHANGES.c.change).where(
        LINE_CHANGES.c.change.is_not(None)
    ),
).subquery("untold")
_RECOUNT: Final = sa.insert(LINE_COUNTS).from_select(
    [*_KEY, "job_count"],
    sa.select(*(_UNTOLD.c[name] for name in _KEY), sa.func.sum(_UNTOLD.c.job_count))
    .group_by(*(_UNTOLD.c[name] for name in _KEY))
    .having(sa.func.sum(_UNTOLD.c.job_count) != 0),
)
"""All in line but for what notes say still, which are added up when they are deleted."""
_OWN_PLACE: Final = sa.select(*_JOBS_KEY.values(), JOBS.c.queue_seq, JOBS.c.array_index).where(
    JOBS.c.id == sa.bindparam("job_id")
)


def _is(column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
    return column == sa.bindparam(name, type_=column.type)


_IS_BESIDE: Final = _is(_COUNTED.c.priority, "priority")
_IS_BEFORE: Final = sa.and_(
    _IS_BESIDE, _COUNTED.c.stretch < sa.bindparam("stretch", type_=sa.BigInteger)
)
_STANDING: Final = (
    sa.select(
        _COUNTED.c.tenant,
        *(
            sa.cast(
                sa.func.coalesce(sa.func.sum(_COUNTED.c.job_count).filter(which), 0), sa.BigInteger
            ).label(name)
            for name, which in (
                ("above_count", _COUNTED.c.priority > sa.bindparam("priority", type_=sa.Integer)),
                ("beside_count", _IS_BESIDE),
                ("before_count", _IS_BEFORE),
                (
                    "alike_count",
                    sa.and_(_IS_BEFORE, *(_is(_COUNTED.c[name], name) for name in _SHAPE)),
                ),
            )
        ),
    )
    .where(~_is_paused(_COUNTED))
    .group_by(_COUNTED.c.tenant)
)
_REST_COUNT: Final = sa.func.sum(JOBS.c.rest_count)
_IN_OWN_STRETCH: Final = sa.select(
    sa.func.coalesce(_REST_COUNT, 0).label("before_count"),
    sa.func.coalesce(
        _REST_COUNT.filter(
            *(_is(_JOBS_KEY[name], name) for name in _SHAPE),
        ),
        0,
    ).label("alike_count"),
).where(
    _IS_JOB_IN_LINE,
    _is(JOBS.c.tenant, "tenant"),
    _is(JOBS.c.priority, "priority"),
    JOBS.c.queue_seq >= sa.bindparam("stretch_seq", type_=sa.BigInteger),
    JOBS.c.queue_seq <= sa.bindparam("queue_seq", type_=sa.BigInteger),
    sa.tuple_(JOBS.c.queue_seq, JOBS.c.array_index)
    < sa.tuple_(
        sa.bindparam("queue_seq", type_=sa.BigInteger),
        sa.bindparam("array_index", type_=sa.Integer),
    ),
    ~_is_paused(JOBS),
)
_STRETCHES: Final = (
    sa.select(*(_COUNTED.c[name] for name in _KEY))
    .where(~_is_paused(_COUNTED))
    .group_by(*(_COUNTED.c[name] for name in _KEY))
    .having(sa.func.sum(_COUNTED.c.job_count) > 0)
    .subquery("stretches")
)
_FIRST_SHAPES: Final = (
    sa.select(
        *(_STRETCHES.c[name] for name in _SHAPE),
        sa.func.min(_STRETCHES.c.stretch).label("stretch"),
        sa.func.max(_STRETCHES.c.stretch).label("last_stretch"),
    )
    .group_by(*(_STRETCHES.c[name] for name in _SHAPE))
    .order_by(_STRETCHES.c.priority.desc(), "stretch")
    .limit(sa.bindparam("shapes_max", type_=sa.Integer))
    .cte("first_shapes")
)
_EACH_MAX: Final = sa.func.greatest(
    1,
    sa.func.least(
        sa.bindparam("each_max", type_=sa.BigInteger),
        sa.bindparam("jobs_max", type_=sa.BigInteger) // sa.func.count().over(),
    ),
)
_SHAPES: Final = sa.select(_FIRST_SHAPES, _EACH_MAX.label("each_max")).subquery("shapes")
_OF_SHAPE: Final = (
    sa.select(JOBS.c.id, JOBS.c.queue_seq, JOBS.c.array_index, JOBS.c.rest_count)
    .where(
        _IS_JOB_IN_LINE,
        *(_JOBS_KEY[name] == _SHAPES.c[name] for name in _SHAPE),
        # Not to the end of the line for a shape of which there are few.
        JOBS.c.queue_seq >= _SHAPES.c.stretch.bitwise_lshift(_STRETCH_BITS),
        JOBS.c.queue_seq < (_SHAPES.c.last_stretch + 1).bitwise_lshift(_STRETCH_BITS),
        sa.or_(JOBS.c.retry_at.is_(None), JOBS.c.retry_at <= sa.bindparam("at")),
    )
    .order_by(JOBS.c.queue_seq)  # as the index has them: who shares a place is alike
    .limit(_SHAPES.c.each_max)
    .correlate(_SHAPES)
    .lateral("of_shape")
)
_TURNS: Final = sa.select(
    sa.func.array_agg(_OF_SHAPE.c.id, type_=sa.ARRAY(sa.Text)).label("ids"),
    sa.func.array_agg(_OF_SHAPE.c.queue_seq, type_=sa.ARRAY(sa.BigInteger)).label("queue_seqs"),
    sa.func.array_agg(_OF_SHAPE.c.array_index, type_=sa.ARRAY(sa.Integer)).label("indices"),
    sa.func.array_agg(_OF_SHAPE.c.rest_count, type_=sa.ARRAY(sa.Integer)).label("counts"),
).lateral("turns")
_FIRST: Final = sa.select(_SHAPES, _TURNS).select_from(_SHAPES.join(_TURNS, sa.true()))
_LIKE_THOSE: Final = (
    sa.select(
        _kind(OwnerKind.REPLICA),
        REPLICAS.c.id,
        *_REPLICA,
        sa.func.row_number()
        .over(
            partition_by=(REPLICAS.c.tenant, *(DEPLOYMENTS.c[name] for name in _AMOUNTS)),
            order_by=REPLICAS.c.queue_seq,
        )
        .label("place"),
    )
    .select_from(_OF_DEPLOYMENTS)
    .where(_IS_REPLICA_IN_LINE)
    .subquery("like_those")
)
_FIRST_REPLICAS: Final = (
    sa.select(_LIKE_THOSE)
    .where(_LIKE_THOSE.c.place <= sa.bindparam("each_max", type_=sa.Integer))
    .order_by(_LIKE_THOSE.c.queue_seq)
    .limit(sa.bindparam("replicas_max", type_=sa.Integer))
)
_PAUSED: Final = sa.select(QUEUES.c.tenant, QUEUES.c.name)
_PAUSING_COUNT: Final = (
    sa.select(sa.func.count())
    .select_from(JOBS)
    .where(
        _is(JOBS.c.tenant, "tenant"),
        _IS_JOB_IN_LINE,
        JOBS.c.retry_at > sa.bindparam("at"),
    )
)
_QUEUED_COUNTS: Final = (
    sa.select(JOBS.c.tenant, sa.func.count().label("job_count"))
    .where(is_one_of(JOBS.c.tenant, "tenants"), _IS_JOB_QUEUED)
    .group_by(JOBS.c.tenant)
)


_AGED: Final = (
    sa.select(JOBS.c.id)
    .where(
        _IS_JOB_IN_LINE,
        JOBS.c.priority < PRIORITY_MAX,
        sa.func.coalesce(JOBS.c.ages_from, JOBS.c.created_at)
        <= sa.func.statement_timestamp() - sa.bindparam("after", type_=sa.Interval),
        ~is_one_of(JOBS.c.tenant, "but_for"),
        ~_is_paused(JOBS),
    )
    .order_by(JOBS.c.queue_seq)
    .limit(sa.bindparam("jobs_max", type_=sa.Integer))
    .with_for_update(skip_locked=True, of=JOBS)
    .cte("aged")
)
_AGE: Final = (
    sa.update(JOBS)
    .where(JOBS.c.id == _AGED.c.id)
    .values(priority=JOBS.c.priority + 1, ages_from=sa.func.statement_timestamp())
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
        """Return how many jobs whose turns can come stand before one in line, and beside it."""
        found = (await self._connection.execute(_OWN_PLACE, {"job_id": job_id})).mappings()
        if (own := found.one_or_none()) is None:
            return Standing()
        rows = (await self._connection.execute(_STANDING, dict(own))).all()
        stretch_seq = own["stretch"] << STRETCH_BITS
        beside = await self._connection.execute(
            _IN_OWN_STRETCH, {**own, "stretch_seq": stretch_seq}
        )
        in_own_stretch = beside.one()
        ours = [row for row in rows if row.tenant == own["tenant"]]
        return Standing(
            above_count=sum(row.above_count for row in rows),
            own_count=in_own_stretch.before_count + sum(row.before_count for row in ours),
            others={
                TenantId(row.tenant): row.beside_count
                for row in rows
                if row.beside_count and row.tenant != own["tenant"]
            },
            alike_count=in_own_stretch.alike_count + sum(row.alike_count for row in ours),
        )

    async def paused(self) -> Collection[tuple[TenantId, str]]:
        """Return all queues that are paused."""
        found = await self._connection.execute(_PAUSED)
        return {(TenantId(row.tenant), row.name) for row in found}

    async def pausing_count(self, tenant: TenantId, *, at: datetime) -> int:
        """Count a tenant's jobs in line that pause before a retry."""
        given = {"tenant": tenant, "at": at}
        return await self._connection.scalar(_PAUSING_COUNT, given) or 0

    async def first(self, *, at: datetime, each_max: int) -> FirstInLine:
        """Return the first of each shape."""
        # One more than is looked at of each tells whether there are others.
        asked: dict[str, object] = {
            "at": at,
            "each_max": each_max,
            "jobs_max": FIRST_JOBS_MAX,
            "shapes_max": FIRST_SHAPES_MAX + 1,
        }
        shapes = (await self._connection.execute(_FIRST, asked)).mappings().all()
        asked = {"each_max": each_max, "replicas_max": FIRST_REPLICAS_MAX + 1}
        replicas = (await self._connection.execute(_FIRST_REPLICAS, asked)).mappings().all()
        heads = [head for row in shapes[:FIRST_SHAPES_MAX] for head in to_alike(row)]
        heads += [to_waiting(row).head for row in replicas[:FIRST_REPLICAS_MAX]]
        is_whole = len(shapes) <= FIRST_SHAPES_MAX and len(replicas) <= FIRST_REPLICAS_MAX
        each_max = shapes[0]["each_max"] if shapes else each_max
        return FirstInLine(heads, each_max, is_whole)

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

    async def age(self, *, after: timedelta, but_for: Sequence[TenantId], limit: int) -> int:
        """Give those that have waited for so long with their priority the next larger one."""
        given = {"after": after, "but_for": list(but_for), "jobs_max": limit}
        aged = await self._connection.execute(_AGE, given)
        return aged.rowcount

    async def mend_counts(self) -> bool:
        """Count all in line anew, if not as many are counted as stand there."""
        if await self._connection.scalar(_ARE_COUNTS_RIGHT):
            return False
        await self._connection.execute(sa.delete(LINE_COUNTS))
        await self._connection.execute(_RECOUNT)
        return True

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
    head = Head(row["id"], row["queue_seq"], shape, row["array_index"], row["rest_count"])
    return Waiting(head, not_before=row["retry_at"])


def to_alike(row: sa.RowMapping) -> Sequence[Head]:
    """Return the first jobs of the shape in a row; those of one may all pause."""
    shape = Shape(
        OwnerKind.JOB,
        TenantId(row["tenant"]),
        row["priority"],
        to_resources(row),
        run_max=from_document(timedelta, row["run_max"]) if row["run_max"] else None,
        queue=row["queue"],
        task_count=row["task_count"],
    )
    turns = zip(
        *(row[name] or () for name in ("ids", "queue_seqs", "indices", "counts")), strict=True
    )
    return [
        Head(head_id, queue_seq, shape, index, count) for head_id, queue_seq, index, count in turns
    ]


def to_change(row: sa.RowMapping) -> LineChange:
    """Return how one stands now whose row was found, or not."""
    return LineChange(row["id"], None if row["tenant"] is None else to_waiting(row))


def from_average(average: Average) -> dict[str, float]:
    """Return the columns of an average."""
    return dataclasses.asdict(average)


def to_average(row: sa.RowMapping) -> Average:
    """Return the average in a row."""
    return Average(row["cpu_millicores"], row["memory_bytes"], row["gpu_count"])
