"""Jobs in PostgreSQL."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import Conflict, NotFound
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.postgres.attempts import PostgresAttempts
from services.scheduler.adapters.postgres.dependencies import Needs, PostgresDependencies
from services.scheduler.adapters.postgres.fleet import IS_OPEN_ON_DRAINED
from services.scheduler.adapters.postgres.rows import (
    VersionedRows,
    from_document,
    from_resources,
    is_one_of,
    maybe_from_document,
    to_document,
    to_element,
    versioned_update,
)
from services.scheduler.adapters.postgres.stats import PostgresStats
from services.scheduler.adapters.postgres.tables import (
    ATTEMPTS,
    ELEMENTS,
    IS_ELEMENT,
    IS_ELEMENT_OF_JOB,
    IS_IN_QUEUE_OF_ITS_OWN,
    IS_LABELLED,
    IS_NO_ELEMENT,
    JOBS,
    LABELS,
)
from services.scheduler.domain.attempts.attempt import Attempt
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.domain.jobs.array import ElementCounts
from services.scheduler.domain.jobs.failure import JobFailure
from services.scheduler.domain.jobs.job import (
    FOR_NOW,
    PLACED,
    Checkpoint,
    Job,
    JobProgress,
    JobState,
    OutputManifest,
    StopRequest,
)
from services.scheduler.domain.jobs.spec import JobSpec
from services.scheduler.domain.jobs.stats import JobEnds, JobWaits
from services.scheduler.domain.queues.queue import DEFAULT_QUEUE
from services.scheduler.domain.resources import Resources

_INSERT: Final = sa.insert(JOBS)
_ARRAYS: Final = JOBS.alias("arrays")
_INSERT_ELEMENT: Final = sa.insert(JOBS).values(
    queue_seq=sa.select(_ARRAYS.c.queue_seq)
    .where(_ARRAYS.c.id == sa.bindparam("of_array"))
    .scalar_subquery()
)
"""An element has its array's place in line."""
_UPDATE: Final = versioned_update(JOBS)
_ANY: Final = sa.select(JOBS).where(JOBS.c.id == sa.bindparam("job_id"))
_ANY_LOCKED: Final = _ANY.with_for_update()
_ONE: Final = _ANY.where(JOBS.c.tenant == sa.bindparam("tenant"))
_ONE_LOCKED: Final = _ONE.with_for_update()
_SOME: Final = sa.select(JOBS).where(JOBS.c.id.in_(sa.bindparam("ids", expanding=True)))
_QUEUED: Final = (
    sa.select(JOBS)
    .where(JOBS.c.id.in_(sa.bindparam("ids", expanding=True)), JOBS.c.state == JobState.QUEUED)
    .order_by(JOBS.c.id)
    .with_for_update()
)
_PLACED: Final = (
    sa.select(JOBS.c.id)
    .where(is_one_of(JOBS.c.tenant, "tenants"), JOBS.c.state.in_(PLACED), ~JOBS.c.is_array)
    .order_by(JOBS.c.id)
    .limit(sa.bindparam("jobs_max", type_=sa.Integer))
)
_PLACED_ON_DRAINED: Final = (
    sa.select(JOBS.c.id)
    .join(ATTEMPTS, ATTEMPTS.c.owner_id == JOBS.c.id)
    .where(IS_OPEN_ON_DRAINED, JOBS.c.state.in_(PLACED))
    .distinct()
    .order_by(JOBS.c.id)
    .limit(sa.bindparam("jobs_max", type_=sa.Integer))
)
_EXPIRED: Final = (
    sa.select(JOBS.c.id)
    .where(JOBS.c.state == JobState.QUEUED, JOBS.c.queue_expires_at <= sa.bindparam("at"))
    .order_by(JOBS.c.id)
    .limit(sa.bindparam("jobs_max", type_=sa.Integer))
)
_IS_ARRAY_OPEN: Final = sa.and_(JOBS.c.is_array, sa.text("job.state IN ('RUNNING', 'STOPPING')"))
_ARRAYS_WITHOUT_OPEN: Final = (
    sa.select(JOBS.c.id)
    .where(
        _IS_ARRAY_OPEN,
        ~sa.exists().where(IS_ELEMENT_OF_JOB, ELEMENTS.c.ended_at.is_(None)),
    )
    .order_by(JOBS.c.id)
    .limit(sa.bindparam("jobs_max", type_=sa.Integer))
)
_OF_STOPPING_ARRAYS: Final = (
    sa.select(ELEMENTS.c.id)
    .select_from(JOBS.join(ELEMENTS, IS_ELEMENT_OF_JOB))
    .where(
        _IS_ARRAY_OPEN,
        JOBS.c.state == JobState.STOPPING,
        ELEMENTS.c.ended_at.is_(None),
        sa.or_(
            ELEMENTS.c.state != JobState.STOPPING,
            ELEMENTS.c.stop["cause"].astext.in_(FOR_NOW),
        ),
    )
    .order_by(ELEMENTS.c.id)
    .limit(sa.bindparam("jobs_max", type_=sa.Integer))
)
_ELEMENT_COUNTS: Final = (
    sa.select(ELEMENTS.c.array_id, ELEMENTS.c.state, sa.func.count().label("element_count"))
    .where(
        is_one_of(ELEMENTS.c.array_id, "array_ids"),
        IS_ELEMENT,
        ELEMENTS.c.tenant == sa.bindparam("tenant"),
    )
    .group_by(ELEMENTS.c.array_id, ELEMENTS.c.state)
)
_STATES: Final = sa.select(JOBS.c.id, JOBS.c.state).where(
    JOBS.c.tenant == sa.bindparam("tenant"), is_one_of(JOBS.c.id, "job_ids")
)
_RETRIED_COUNT: Final = (
    sa.select(sa.func.count())
    .select_from(JOBS)
    .where(JOBS.c.tenant == sa.bindparam("tenant"), JOBS.c.retry_at > sa.bindparam("since"))
)

_ADMITTED: Final = (
    JOBS.c.state,
    JOBS.c.reason,
    JOBS.c.version,
    JOBS.c.attempt_number,
    JOBS.c.attempt_id,
    JOBS.c.node_id,
    JOBS.c.admitted_at,
)
"""What a job's admission changes of its row."""
_READ: Final = {"read_id": JOBS.c.id, "read_tenant": JOBS.c.tenant, "read_version": JOBS.c.version}
_ADMITTED_NAMES: Final = (*_READ, *(column.name for column in _ADMITTED))
_NOW_ADMITTED: Final = (
    sa.func.unnest(
        *(
            sa.bindparam(f"of_jobs_{name}", type_=sa.ARRAY(column.type))
            for name, column in (_READ | {each.name: each for each in _ADMITTED}).items()
        ),
    )
    .table_valued(*_ADMITTED_NAMES, name="admitted")
    .render_derived()
)
_ADMIT: Final = (
    sa.update(JOBS)
    .where(
        JOBS.c.id == _NOW_ADMITTED.c.read_id,
        JOBS.c.tenant == _NOW_ADMITTED.c.read_tenant,
        JOBS.c.version == _NOW_ADMITTED.c.read_version,
    )
    .values({column: _NOW_ADMITTED.c[column.name] for column in _ADMITTED})
)


class PostgresJobs:
    """All tenants' jobs; implements `ports.Jobs`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._rows = VersionedRows(connection, _UPDATE, kind="job")
        self._dependencies = PostgresDependencies(connection)
        self._waiting: set[JobId] = set()
        """Jobs that wait for others as this transaction has read them."""

    async def get_any(self, job_id: JobId) -> Job:
        """Return a job of any tenant, locked."""
        return await self.one(_ANY_LOCKED, {"job_id": job_id})

    async def add(self, jobs: Sequence[Job]) -> None:
        """Put new jobs last in line, in this order."""
        if jobs:
            await self._connection.execute(_INSERT, [_new_row(job) for job in jobs])
            await self._dependencies.add(jobs)

    async def add_elements(self, elements: Sequence[Job]) -> None:
        """Store what was split off arrays, at their places in line."""
        if elements:
            await self._connection.execute(_INSERT_ELEMENT, [_new_element(job) for job in elements])

    async def some(self, job_ids: Sequence[JobId]) -> Sequence[Job]:
        """Return those of the jobs that there are."""
        if not job_ids:
            return []
        found = await self._connection.execute(_SOME, {"ids": list(job_ids)})
        return await self.with_needs(found.mappings().all())

    async def queued(self, job_ids: Sequence[JobId]) -> Sequence[Job]:
        """Return those that still stand in line, locked."""
        found = await self._connection.execute(_QUEUED, {"ids": job_ids})
        return await self._read(found.mappings().all())

    async def placed(self, tenants: Sequence[TenantId], *, limit: int) -> Sequence[JobId]:
        """Return jobs of these tenants that run or will."""
        given = {"tenants": tenants, "jobs_max": limit}
        return [JobId(found) for found in await self._connection.scalars(_PLACED, given)]

    async def placed_on_drained(self, *, limit: int) -> Sequence[JobId]:
        """Return jobs on nodes that are drained, which run or will."""
        found = await self._connection.scalars(_PLACED_ON_DRAINED, {"jobs_max": limit})
        return [JobId(job_id) for job_id in found]

    async def expired(self, *, at: datetime, limit: int) -> Sequence[JobId]:
        """Return jobs that have stood in line for as long as they may."""
        given = {"at": at, "jobs_max": limit}
        return [JobId(found) for found in await self._connection.scalars(_EXPIRED, given)]

    async def releasable(self, *, limit: int) -> Sequence[JobId]:
        """Return jobs in line that wait for one that has ended, or is gone."""
        return await self._dependencies.releasable(limit=limit)

    async def arrays_without_open(self, *, limit: int) -> Sequence[JobId]:
        """Return arrays that have not ended, but all of whose elements have."""
        found = await self._connection.scalars(_ARRAYS_WITHOUT_OPEN, {"jobs_max": limit})
        return [JobId(job_id) for job_id in found]

    async def of_stopping_arrays(self, *, limit: int) -> Sequence[JobId]:
        """Return elements that nobody has asked to stop for good, of arrays that are to stop."""
        found = await self._connection.scalars(_OF_STOPPING_ARRAYS, {"jobs_max": limit})
        return [JobId(job_id) for job_id in found]

    async def element_counts(
        self, tenant: TenantId, array_ids: Sequence[JobId]
    ) -> Mapping[JobId, ElementCounts]:
        """Return how many of each array's elements are jobs in each state."""
        given = {"tenant": tenant, "array_ids": list(array_ids)}
        counts: dict[JobId, dict[JobState, int]] = {array_id: {} for array_id in array_ids}
        for row in await self._connection.execute(_ELEMENT_COUNTS, given):
            counts[JobId(row.array_id)][JobState(row.state)] = row.element_count
        return counts

    async def states(self, tenant: TenantId, job_ids: Sequence[JobId]) -> Mapping[JobId, JobState]:
        """Return where those of a tenant's jobs are that there are."""
        given = {"tenant": tenant, "job_ids": list(job_ids)}
        found = await self._connection.execute(_STATES, given)
        return {JobId(row.id): JobState(row.state) for row in found}

    async def retried_count(self, tenant: TenantId, *, since: datetime) -> int:
        """Count a tenant's jobs whose last retry began, or will begin, after an instant."""
        given = {"tenant": tenant, "since": since}
        return await self._connection.scalar(_RETRIED_COUNT, given) or 0

    async def save(self, job: Job) -> None:
        """Store a job that this transaction has read."""
        await self._rows.write(job.id, from_job(job))
        if job.id in self._waiting:
            await self._dependencies.keep(job)

    async def admit(self, jobs: Sequence[Job]) -> None:
        """Store jobs that this transaction has read, and then admitted: all in one statement."""
        if jobs:
            rows = [self._rows.over_what_was_read(job.id) | from_job(job) for job in jobs]
            given = {f"of_jobs_{name}": [row[name] for row in rows] for name in _ADMITTED_NAMES}
            admitted = await self._connection.execute(_ADMIT, given)
            if admitted.rowcount != len(jobs):
                raise Conflict("job", jobs[0].id)
            for job in jobs:
                self._rows.wrote(job.id, version=job.version)

    async def one(self, query: sa.Select[Any], given: Mapping[str, str]) -> Job:
        """Return the job that a query finds by the `job_id` that it is given."""
        row = (await self._connection.execute(query, given)).mappings().one_or_none()
        if row is None:
            raise NotFound("job", given["job_id"])
        [job] = await self._read([row])
        return job

    async def with_needs(self, rows: Sequence[sa.RowMapping]) -> Sequence[Job]:
        """Return the jobs in rows; what they wait for is asked for where there is any."""
        waiting: dict[TenantId, list[JobId]] = defaultdict(list)
        for row in rows:
            if row["needs_count"]:
                waiting[row["tenant"]].append(row["id"])
        needs: dict[JobId, Needs] = {}
        for tenant, job_ids in waiting.items():
            needs |= await self._dependencies.of(tenant, job_ids)
        return [to_job(row, needs.get(row["id"], ())) for row in rows]

    async def _read(self, rows: Sequence[sa.RowMapping]) -> Sequence[Job]:
        for row in rows:
            self._rows.read(row)
        jobs = await self.with_needs(rows)
        self._waiting |= {job.id for job in jobs if job.needs}
        return jobs


class PostgresTenantJobs:
    """One tenant's jobs; implements `ports.TenantJobs`."""

    def __init__(self, connection: AsyncConnection, tenant: TenantId) -> None:
        self._connection = connection
        self._tenant = tenant
        self._jobs = PostgresJobs(connection)

    async def get(self, job_id: JobId) -> Job:
        """Return a job of this tenant."""
        return await self._jobs.one(_ONE, {"job_id": job_id, "tenant": self._tenant})

    async def get_for_update(self, job_id: JobId) -> Job:
        """Return a job of this tenant, locked."""
        return await self._jobs.one(_ONE_LOCKED, {"job_id": job_id, "tenant": self._tenant})

    async def save(self, job: Job) -> None:
        """Store a job that this transaction has read."""
        await self._jobs.save(job)

    async def newest(
        self,
        *,
        before: JobId | None,
        states: Sequence[JobState],
        labels: Mapping[str, str],
        queue: str | None,
        array_id: JobId | None = None,
        array_index: int | None = None,
        limit: int,
    ) -> Sequence[Job]:
        """Return a page of this tenant's jobs."""
        query = self._ours().order_by(JOBS.c.id.desc()).limit(limit)
        is_of_array = IS_NO_ELEMENT if array_id is None else JOBS.c.array_id == array_id
        query = query.where(is_of_array)
        if array_index is not None:
            query = query.where(JOBS.c.array_index == array_index)
        if before is not None:
            query = query.where(JOBS.c.id < before)
        if states:
            query = query.where(JOBS.c.state.in_(states))
        if labels:
            query = query.where(IS_LABELLED, LABELS.contains(dict(labels)))
        if queue is not None:
            query = query.where(JOBS.c.queue == queue)
            if queue != DEFAULT_QUEUE:  # so that the index may be asked
                query = query.where(IS_IN_QUEUE_OF_ITS_OWN)
        return await self._jobs.with_needs((await self._connection.execute(query)).mappings().all())

    async def states(self, job_ids: Sequence[JobId]) -> Mapping[JobId, JobState]:
        """Return where those of the jobs are that there are, of this tenant."""
        return await self._jobs.states(self._tenant, job_ids)

    async def element_counts(self, array_ids: Sequence[JobId]) -> Mapping[JobId, ElementCounts]:
        """Return how many of each array's elements are jobs in each state, of this tenant."""
        return await self._jobs.element_counts(self._tenant, array_ids)

    async def attempts(
        self, job_id: JobId, *, after: AttemptId | None, limit: int
    ) -> Sequence[Attempt]:
        """Return a page of a job's attempts."""
        return await PostgresAttempts(self._connection).of_owner(
            job_id, tenant=self._tenant, after=after, limit=limit
        )

    async def waits(self, *, since: datetime, limit: int) -> Sequence[JobWaits]:
        """Return how long those waited that were first admitted since then."""
        return await PostgresStats(self._connection, self._tenant).waits(since=since, limit=limit)

    async def ends(self, *, since: datetime, limit: int) -> Sequence[JobEnds]:
        """Return how those ended that did so since then."""
        return await PostgresStats(self._connection, self._tenant).ends(since=since, limit=limit)

    async def booked(self) -> Resources:
        """Return what all that runs of this tenant takes together."""
        return await PostgresAttempts(self._connection).held_by(self._tenant)

    def _ours(self) -> sa.Select[Any]:
        return sa.select(JOBS).where(JOBS.c.tenant == self._tenant)


def _new_row(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "tenant": job.tenant,
        "spec": to_document(job.spec),
        "queue": job.spec.queue,
        "task_count": job.spec.task_count,
        "is_array": job.is_array,
        "array_id": job.element.array_id if job.element is not None else "",
        "traceparent": job.traceparent,
        "created_at": job.created_at,
        **from_resources(job.spec.resources),
        **from_job(job),
    }


def _new_element(job: Job) -> dict[str, Any]:
    row = _new_row(job)
    return {**row, "of_array": row["array_id"]}


def from_job(job: Job) -> dict[str, Any]:
    """Return the columns that a job's moves change."""
    return {
        "state": job.state,
        "reason": job.reason,
        "version": job.version,
        "attempt_number": job.attempt_number,
        "attempt_id": job.attempt_id,
        "node_id": job.node_id,
        "progress": to_document(job.progress),
        "failure": to_document(job.failure),
        "stop": to_document(job.stop),
        "admitted_at": job.admitted_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "retry_count": job.retry_count,
        "retry_at": job.retry_at,
        "queue_expires_at": job.queue_expires_at,
        "checkpoint": to_document(job.checkpoint),
        "needs_count": len(job.needs),
        "kept_outputs": to_document(job.kept_outputs) if job.kept_outputs else None,
        "priority": job.priority,
        "ages_from": job.ages_from,
        "rest_count": job.rest_count,
        "array_index": job.array_index,
    }


def to_job(row: sa.RowMapping, needs: Needs) -> Job:
    """Return the job in a row, which waits for these."""
    spec = from_document(JobSpec, row["spec"])
    return Job(
        id=row["id"],
        tenant=row["tenant"],
        spec=spec,
        state=JobState(row["state"]),
        reason=row["reason"],
        version=row["version"],
        created_at=row["created_at"],
        traceparent=row["traceparent"],
        attempt_number=row["attempt_number"],
        attempt_id=row["attempt_id"],
        node_id=row["node_id"],
        progress=maybe_from_document(JobProgress, row["progress"]),
        failure=maybe_from_document(JobFailure, row["failure"]),
        stop=maybe_from_document(StopRequest, row["stop"]),
        admitted_at=row["admitted_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        retry_count=row["retry_count"],
        retry_at=row["retry_at"],
        queue_expires_at=row["queue_expires_at"],
        checkpoint=maybe_from_document(Checkpoint, row["checkpoint"]),
        needs=needs,
        kept_outputs=maybe_from_document(tuple[OutputManifest, ...], row["kept_outputs"]) or (),
        element=to_element(row),
        rest_count=row["rest_count"],
        aged_by=row["priority"] - spec.priority,
        ages_from=row["ages_from"],
    )
