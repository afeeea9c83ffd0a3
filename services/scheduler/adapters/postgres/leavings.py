"""What tenants leave in PostgreSQL, deleted a bounded number of rows at a time.

In the order of an index, which begins with the tenant, or with a job's end: so a pass that finds
nothing stays a look-up, and one that finds much does not sort it.

Always holds: an attempt goes before its owner, so that none is left whose owner nobody knows; an
open one stays, and its owner with it, since the runner reads both together. What a job waits for
goes with it, by the foreign key. Rows that somebody has
locked are passed over: so no transaction waits here, in whatever order it locks.
"""

from collections.abc import Sequence
from datetime import timedelta
from itertools import accumulate
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.tenancy import TenantId
from services.scheduler.adapters.postgres.rows import is_one_of
from services.scheduler.adapters.postgres.tables import (
    ATTEMPTS,
    CHASSIS,
    DEPENDENCIES,
    DEPLOYMENTS,
    ELEMENTS,
    IS_ELEMENT_OF_JOB,
    IS_NO_ELEMENT,
    JOBS,
    QUEUES,
    REPLICAS,
)
from services.scheduler.domain.attempts.attempt import OPEN
from services.scheduler.domain.deployments.deployment import DeploymentState
from services.scheduler.domain.identities import DeploymentId
from services.scheduler.domain.jobs.job import JobState

_LIVING: Final = (DeploymentState.PREPARING, DeploymentState.SERVING)
_OVER: Final = (JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
_ANSWERS: Final = CHASSIS.idempotency


def _has_open_attempt(owner: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    return sa.exists().where(ATTEMPTS.c.owner_id == owner, ATTEMPTS.c.state.in_(OPEN))


def _attempt_count(jobs: sa.FromClause) -> sa.Label[int]:
    return (jobs.c.attempt_number * jobs.c.task_count).label("attempt_count")


def _is_left_alone(jobs: sa.FromClause) -> sa.ColumnElement[bool]:
    """Tell whether nothing of a job runs, and no other one waits for it."""
    is_needed = sa.exists().where(DEPENDENCIES.c.needs_job_id == jobs.c.id)
    return sa.and_(~_has_open_attempt(jobs.c.id), ~is_needed)


def _some(*columns: sa.Column[Any], by: Sequence[sa.ColumnElement[Any]]) -> sa.Select[Any]:
    table = columns[0].table
    return (
        sa.select(*columns)
        .where(is_one_of(table.c.tenant, "tenants"))
        .order_by(*by)
        .limit(sa.bindparam("rows_max", type_=sa.Integer))
    )


_NEWEST_JOBS: Final = (JOBS.c.tenant, JOBS.c.array_id, JOBS.c.id.desc())
_NEWEST_DEPLOYMENTS: Final = (DEPLOYMENTS.c.tenant, DEPLOYMENTS.c.id.desc())
_LIVING_DEPLOYMENTS: Final = (
    _some(DEPLOYMENTS.c.tenant, DEPLOYMENTS.c.id, by=_NEWEST_DEPLOYMENTS)
    .where(DEPLOYMENTS.c.state.in_(_LIVING))
    .offset(sa.bindparam("passed_over", type_=sa.Integer))
)
_ATTEMPTS_MAX: Final = 5_000
"""Of the jobs that one pass deletes together: a job may have hundreds, one a task."""
_JOBS: Final = (
    _some(JOBS.c.id, by=_NEWEST_JOBS)
    .add_columns(_attempt_count(JOBS))
    .where(
        sa.or_(JOBS.c.state.in_(_OVER), JOBS.c.is_array),
        ~_has_open_attempt(JOBS.c.id),
    )
    .with_for_update(skip_locked=True)
)
_IS_DUE: Final = sa.and_(
    IS_NO_ELEMENT,
    JOBS.c.ended_at <= sa.func.now() - sa.bindparam("kept", type_=sa.Interval),
    _is_left_alone(JOBS),
)
_ENDED_JOBS: Final = (
    sa.select(JOBS.c.id, _attempt_count(JOBS))
    .where(_IS_DUE, ~sa.exists().where(IS_ELEMENT_OF_JOB))
    .order_by(JOBS.c.ended_at)
    .limit(sa.bindparam("rows_max", type_=sa.Integer))
    .with_for_update(skip_locked=True)
)
_ENDED_ELEMENTS: Final = (
    sa.select(ELEMENTS.c.id, _attempt_count(ELEMENTS))
    .select_from(JOBS.join(ELEMENTS, IS_ELEMENT_OF_JOB))
    .where(_IS_DUE, JOBS.c.is_array, _is_left_alone(ELEMENTS))
    .order_by(JOBS.c.ended_at)
    .limit(sa.bindparam("rows_max", type_=sa.Integer))
    .with_for_update(skip_locked=True, of=ELEMENTS)
)
"""Of arrays that are due: those go after them, since they are told by their elements."""
_DEPLOYMENTS: Final = (
    _some(DEPLOYMENTS.c.id, by=_NEWEST_DEPLOYMENTS)
    .where(
        DEPLOYMENTS.c.state == DeploymentState.DELETED,
        ~sa.exists().where(
            REPLICAS.c.deployment_id == DEPLOYMENTS.c.id, _has_open_attempt(REPLICAS.c.id)
        ),
    )
    .with_for_update(skip_locked=True)
)
_REPLICAS: Final = sa.select(REPLICAS.c.id).where(is_one_of(REPLICAS.c.deployment_id, "ids"))
_DELETE_ATTEMPTS: Final = sa.delete(ATTEMPTS).where(
    ATTEMPTS.c.id.in_(
        sa.select(ATTEMPTS.c.id)
        .where(is_one_of(ATTEMPTS.c.owner_id, "ids"))
        .with_for_update(skip_locked=True)
    )
)
_DELETE_JOBS: Final = sa.delete(JOBS).where(
    is_one_of(JOBS.c.id, "ids"), ~sa.exists().where(ATTEMPTS.c.owner_id == JOBS.c.id)
)
_DELETE_REPLICAS: Final = sa.delete(REPLICAS).where(
    is_one_of(REPLICAS.c.deployment_id, "ids"),
    ~sa.exists().where(ATTEMPTS.c.owner_id == REPLICAS.c.id),
)
_DELETE_DEPLOYMENTS: Final = sa.delete(DEPLOYMENTS).where(
    is_one_of(DEPLOYMENTS.c.id, "ids"),
    ~sa.exists().where(REPLICAS.c.deployment_id == DEPLOYMENTS.c.id),
)


def _delete_some(table: sa.Table) -> sa.Delete:
    """Return the deletion of some rows that are no owners, by their keys."""
    key = tuple(table.primary_key.columns)
    some = _some(*key, by=key).with_for_update(skip_locked=True)
    return sa.delete(table).where(sa.tuple_(*key).in_(some))


_DELETE_PAUSES: Final = _delete_some(QUEUES)
_DELETE_ANSWERS: Final = _delete_some(_ANSWERS)


class PostgresLeavings:
    """What is to be deleted of tenants; implements `ports.Leavings`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def living_deployments(
        self, tenants: Sequence[TenantId], *, offset: int, limit: int
    ) -> Sequence[tuple[TenantId, DeploymentId]]:
        """Return deployments whose deletion nobody has asked for, but for the first `offset`."""
        found = await self._connection.execute(
            _LIVING_DEPLOYMENTS, {**_given(tenants, limit), "passed_over": offset}
        )
        return [(TenantId(row.tenant), DeploymentId(row.id)) for row in found]

    async def delete_jobs(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete jobs of which nothing runs, with their attempts."""
        job_ids = await self._some_jobs(_JOBS, _given(tenants, limit))
        return await self._delete((_DELETE_ATTEMPTS, _DELETE_JOBS), job_ids)

    async def delete_ended_jobs(self, kept: timedelta, *, limit: int) -> int:
        """Delete jobs, with their attempts, that ended so long ago and nobody waits for."""
        deleted_count = 0
        for query in (_ENDED_ELEMENTS, _ENDED_JOBS):
            given = {"kept": kept, "rows_max": limit - deleted_count}
            job_ids = await self._some_jobs(query, given) if deleted_count < limit else ()
            await self._delete((_DELETE_ATTEMPTS,), job_ids)
            deleted_count += await self._delete((_DELETE_JOBS,), job_ids)
        return deleted_count

    async def delete_deployments(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete DELETED deployments, with replicas and attempts."""
        ids = (await self._connection.scalars(_DEPLOYMENTS, _given(tenants, limit))).all()
        replica_ids = (await self._connection.scalars(_REPLICAS, {"ids": ids})).all()
        attempt_count = await self._delete((_DELETE_ATTEMPTS,), replica_ids)
        return attempt_count + await self._delete((_DELETE_REPLICAS, _DELETE_DEPLOYMENTS), ids)

    async def delete_pauses(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete pauses of queues."""
        deleted = await self._connection.execute(_DELETE_PAUSES, _given(tenants, limit))
        return deleted.rowcount

    async def delete_answers(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete answers to repeatable requests."""
        deleted = await self._connection.execute(_DELETE_ANSWERS, _given(tenants, limit))
        return deleted.rowcount

    async def _some_jobs(self, query: sa.Select[Any], given: dict[str, Any]) -> Sequence[str]:
        """Return the first jobs that a query finds, whose attempts are not too many; one always."""
        found = (await self._connection.execute(query, given)).all()
        together = accumulate(row.attempt_count for row in found)
        return [
            row.id
            for place, (row, count) in enumerate(zip(found, together, strict=True))
            if place == 0 or count <= _ATTEMPTS_MAX
        ]

    async def _delete(self, statements: Sequence[sa.Delete], ids: Sequence[str]) -> int:
        count = 0
        for statement in statements if ids else ():
            count += (await self._connection.execute(statement, {"ids": ids})).rowcount
        return count


def _given(tenants: Sequence[TenantId], limit: int) -> dict[str, Any]:
    return {"tenants": tenants, "rows_max": limit}
