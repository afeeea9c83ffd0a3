"""Which jobs wait for which others, in PostgreSQL.

Always holds: a job's row counts its rows here, which change with it in one transaction, under its
lock; and each statement names the tenant (ADR-0020).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.tenancy import TenantId
from services.scheduler.adapters.postgres.rows import is_one_of
from services.scheduler.adapters.postgres.tables import DEPENDENCIES, JOBS
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import ENDED, Job, JobState
from services.scheduler.domain.jobs.spec import DependencyCondition, JobDependency

Needs = tuple[JobDependency, ...]

_INSERT: Final = sa.insert(DEPENDENCIES)
_OF_JOBS: Final = (
    sa.select(DEPENDENCIES)
    .where(
        DEPENDENCIES.c.tenant == sa.bindparam("tenant"),
        is_one_of(DEPENDENCIES.c.job_id, "job_ids"),
    )
    .order_by(DEPENDENCIES.c.position)
)
_DELETE_OTHERS: Final = sa.delete(DEPENDENCIES).where(
    DEPENDENCIES.c.tenant == sa.bindparam("tenant"),
    DEPENDENCIES.c.job_id == sa.bindparam("job_id"),
    DEPENDENCIES.c.needs_job_id != sa.all_(sa.bindparam("left", type_=sa.ARRAY(sa.Text))),
)
_NEEDED: Final = JOBS.alias("needed")
_WAITS: Final = sa.and_(JOBS.c.state == JobState.QUEUED, JOBS.c.needs_count > 0)
"""Rows that somebody left by hand behind a job that has gone on are nobody's wait."""
_RELEASABLE: Final = (
    sa.select(DEPENDENCIES.c.job_id)
    .distinct()
    .select_from(DEPENDENCIES)
    .join(JOBS, sa.and_(JOBS.c.id == DEPENDENCIES.c.job_id, _WAITS))
    .outerjoin(
        _NEEDED,
        sa.and_(
            _NEEDED.c.id == DEPENDENCIES.c.needs_job_id, _NEEDED.c.tenant == DEPENDENCIES.c.tenant
        ),
    )
    .where(sa.or_(_NEEDED.c.id.is_(None), _NEEDED.c.state.in_(sorted(ENDED))))
    .order_by(DEPENDENCIES.c.job_id)
    .limit(sa.bindparam("jobs_max", type_=sa.Integer))
)


class PostgresDependencies:
    """What jobs wait for, for `PostgresJobs`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, jobs: Sequence[Job]) -> None:
        """Store what new jobs wait for."""
        if rows := [row for job in jobs for row in _rows(job)]:
            await self._connection.execute(_INSERT, rows)

    async def of(self, tenant: TenantId, job_ids: Sequence[JobId]) -> Mapping[JobId, Needs]:
        """Return what each of a tenant's jobs waits for, in the order of its spec."""
        asked = {"tenant": tenant, "job_ids": job_ids}
        found: dict[JobId, Needs] = defaultdict(tuple)
        for row in (await self._connection.execute(_OF_JOBS, asked)).mappings():
            found[row["job_id"]] += (to_dependency(row),)
        return found

    async def keep(self, job: Job) -> None:
        """Delete what a job waits for no more."""
        left = [needed.job_id for needed in job.needs]
        asked = {"tenant": job.tenant, "job_id": job.id, "left": left}
        await self._connection.execute(_DELETE_OTHERS, asked)

    async def releasable(self, *, limit: int) -> Sequence[JobId]:
        """Return jobs that wait for one that has ended, or is gone."""
        found = await self._connection.scalars(_RELEASABLE, {"jobs_max": limit})
        return [JobId(job_id) for job_id in found]


def to_dependency(row: sa.RowMapping) -> JobDependency:
    """Return what is waited for in a row."""
    return JobDependency(JobId(row["needs_job_id"]), DependencyCondition(row["condition"]))


def _rows(job: Job) -> list[dict[str, Any]]:
    return [
        {
            "job_id": job.id,
            "needs_job_id": needed.job_id,
            "tenant": job.tenant,
            "condition": needed.condition,
            "position": job.spec.after.index(needed),
        }
        for needed in job.needs
    ]
