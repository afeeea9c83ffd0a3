"""How a tenant's jobs have fared, reckoned where their rows are.

A question is one statement: the latest rows of the window through an index that begins with the
tenant, so many at most, then percentiles of these. Times that two clocks have stamped are never
less than nothing.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.tenancy import TenantId
from services.scheduler.adapters.postgres.tables import ATTEMPTS, IS_FIRST_OF_JOB, JOBS
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.jobs.stats import JobEnds, JobTimes, JobWaits


def _between(begin: sa.ColumnElement[Any], end: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return the time between two instants, NULL where one is missing."""
    length = end - begin
    return sa.case((length < timedelta(0), timedelta(0)), else_=length)


def _percentiles(length: sa.ColumnElement[Any]) -> tuple[sa.ColumnElement[Any], ...]:
    return tuple(
        sa.func.percentile_cont(fraction).within_group(length).label(name)
        for name, fraction in (("p50", 0.5), ("p99", 0.99))
    )


_LAST: Final = sa.bindparam("jobs_max", type_=sa.Integer)
_ADMITTED: Final = (
    sa.select(ATTEMPTS.c.tenant, ATTEMPTS.c.owner_id, ATTEMPTS.c.created_at)
    .where(
        ATTEMPTS.c.tenant == sa.bindparam("tenant"),
        IS_FIRST_OF_JOB,
        ATTEMPTS.c.task == 0,
        ATTEMPTS.c.created_at >= sa.bindparam("since"),
    )
    .order_by(ATTEMPTS.c.created_at.desc())
    .limit(_LAST)
    .subquery("admitted")
)
# With an offset PostgreSQL looks each job up by its id: else it may read all there are, to join.
_JOB: Final = (
    sa.select(
        JOBS.c.queue,
        sa.cast(JOBS.c.spec["priority"].astext, sa.Integer).label("priority"),
        JOBS.c.created_at,
    )
    .where(JOBS.c.tenant == sa.bindparam("tenant"), JOBS.c.id == _ADMITTED.c.owner_id)
    .offset(0)
    .lateral("job")
)
_WAITS: Final = (
    sa.select(
        _JOB.c.queue,
        _JOB.c.priority,
        sa.func.count().label("job_count"),
        *_percentiles(_between(_JOB.c.created_at, _ADMITTED.c.created_at)),
    )
    .select_from(_ADMITTED.join(_JOB, sa.true()))
    .where(_ADMITTED.c.tenant == sa.bindparam("tenant"))  # once more: each part says it (ADR-0020)
    .group_by(_JOB.c.queue, _JOB.c.priority)
    .order_by(_JOB.c.queue, _JOB.c.priority.desc())
)
_ENDED: Final = (
    sa.select(JOBS.c.tenant, JOBS.c.state, JOBS.c.started_at, JOBS.c.ended_at)
    .where(
        JOBS.c.tenant == sa.bindparam("tenant"),
        JOBS.c.ended_at >= sa.bindparam("since"),
        ~JOBS.c.is_array,  # its elements count
    )
    .order_by(JOBS.c.ended_at.desc())
    .limit(_LAST)
    .subquery("ended")
)
_ENDS: Final = (
    sa.select(
        _ENDED.c.state,
        sa.func.count().label("ended_count"),
        sa.func.count(_ENDED.c.started_at).label("job_count"),
        *_percentiles(_between(_ENDED.c.started_at, _ENDED.c.ended_at)),
    )
    .where(_ENDED.c.tenant == sa.bindparam("tenant"))
    .group_by(_ENDED.c.state)
    .order_by(_ENDED.c.state)
)


class PostgresStats:
    """What `PostgresTenantJobs` tells of many jobs at once."""

    def __init__(self, connection: AsyncConnection, tenant: TenantId) -> None:
        self._connection = connection
        self._tenant = tenant

    async def waits(self, *, since: datetime, limit: int) -> Sequence[JobWaits]:
        """Return how long those waited that were first admitted since then."""
        found = await self._asked(_WAITS, since=since, limit=limit)
        return [JobWaits(row["queue"], row["priority"], _times(row)) for row in found]

    async def ends(self, *, since: datetime, limit: int) -> Sequence[JobEnds]:
        """Return how those ended that did so since then."""
        found = await self._asked(_ENDS, since=since, limit=limit)
        return [JobEnds(JobState(row["state"]), row["ended_count"], _times(row)) for row in found]

    async def _asked(
        self, question: sa.Select[Any], *, since: datetime, limit: int
    ) -> Sequence[sa.RowMapping]:
        given = {"tenant": self._tenant, "since": since, "jobs_max": limit}
        found = await self._connection.execute(question, given)
        return list(found.mappings())


def _times(row: sa.RowMapping) -> JobTimes:
    return JobTimes(row["job_count"], p50=row["p50"], p99=row["p99"])
