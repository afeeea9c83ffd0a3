"""Attempts in PostgreSQL, alone and joined with their owners."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.postgres.rows import (
    VersionedRows,
    from_document,
    from_resources,
    maybe_from_document,
    to_document,
    to_element,
    to_resources,
    versioned_update,
)
from services.scheduler.adapters.postgres.tables import (
    ATTEMPTS,
    DEPLOYMENTS,
    IS_SUCCEEDED,
    JOBS,
    REPLICAS,
)
from services.scheduler.domain.attempts.attempt import (
    OPEN,
    Attempt,
    AttemptState,
    LogLocation,
    Owner,
    OwnerKind,
)
from services.scheduler.domain.attempts.ending import AttemptEnding, EndReason
from services.scheduler.domain.attempts.work import AttemptWork, JobWork, ReplicaWork
from services.scheduler.domain.deployments.deployment import DeploymentSpec
from services.scheduler.domain.deployments.model import ModelPin
from services.scheduler.domain.deployments.replica import ReplicaState
from services.scheduler.domain.identities import AttemptId, JobId, NodeId
from services.scheduler.domain.jobs.job import (
    PLACED,
    Checkpoint,
    JobState,
    StopCause,
    StopRequest,
)
from services.scheduler.domain.jobs.spec import JobSpec, JobTimeouts
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.history import RUNS_MAX, expected_in_s
from services.scheduler.domain.scheduling.plan import Holding
from services.scheduler.domain.scheduling.preemption import Running

# By the clock that also tells how long ago that was; the leader's may differ (ADR-0007).
_INSERT: Final = sa.insert(ATTEMPTS).values(created_at=sa.func.clock_timestamp())
_UPDATE: Final = versioned_update(ATTEMPTS)
_HELD: Final = (
    sa.select(
        ATTEMPTS.c.tenant,
        *(
            sa.cast(sa.func.sum(ATTEMPTS.c[name]), sa.BigInteger).label(name)
            for name in from_resources(Resources())
        ),
    )
    .where(ATTEMPTS.c.state.in_(OPEN))
    .group_by(ATTEMPTS.c.tenant)
)
_DOES_ANY_END: Final = sa.select(
    sa.exists().where(ATTEMPTS.c.state.in_(OPEN), ATTEMPTS.c.owner_kind == OwnerKind.JOB)
)
_HELD_BY_ONE: Final = _HELD.where(ATTEMPTS.c.tenant == sa.bindparam("tenant"))
# Asked for by a process's clock, which may be ahead of the database's: so never later than now.
_STOP_ASKED_AT: Final = sa.func.least(
    sa.cast(JOBS.c.stop["requested_at"].astext, sa.DateTime(timezone=True)),
    sa.case((JOBS.c.stop.is_not(None), sa.func.statement_timestamp())),
)
_STOP_OVER_AT: Final = _STOP_ASKED_AT + sa.cast(
    JOBS.c.spec[("timeouts", "stop_grace")].astext, sa.Interval
)
_RUN_OVER_AT: Final = ATTEMPTS.c.created_at + sa.cast(
    JOBS.c.spec[("timeouts", "run")].astext, sa.Interval
)
# Of the two the one that there is, where nobody has asked for a stop.
_OVER_IN: Final = sa.func.least(_RUN_OVER_AT, _STOP_OVER_AT) - sa.func.statement_timestamp()
# With the attempt itself: of 5,000 a look at each one's job takes 30 ms, and this six. Those from
# before that was kept are asked for one by one; joined, all jobs are read, most of them long ended.
_OWNER: Final = JOBS.alias("owner")
_RUN_MAX: Final = sa.func.coalesce(
    ATTEMPTS.c.run_max,
    sa.select(sa.cast(_OWNER.c.spec[("timeouts", "run")].astext, sa.Interval))
    .where(_OWNER.c.id == ATTEMPTS.c.owner_id)
    .scalar_subquery(),
)
_IS_STOPPING: Final = sa.and_(
    JOBS.c.id == ATTEMPTS.c.owner_id, JOBS.c.state == sa.literal_column("'STOPPING'")
)
"""Written as in the index."""
_ENDS_IN: Final = (
    sa.func.least(ATTEMPTS.c.created_at + _RUN_MAX, _STOP_OVER_AT) - sa.func.statement_timestamp()
)
_PLACED_FOR: Final = sa.case(
    (
        ATTEMPTS.c.run_expected.is_not(None),
        sa.func.statement_timestamp() - ATTEMPTS.c.created_at,
    )
)
"""Of those of whom something is expected."""
_HELD_FOR: Final = (
    sa.select(
        ATTEMPTS.c.node_id,
        ATTEMPTS.c.tenant,
        *(ATTEMPTS.c[name] for name in from_resources(Resources())),
        sa.func.date_part("epoch", _ENDS_IN, type_=sa.Double).label("ends_in_s"),
        sa.func.date_part("epoch", _PLACED_FOR, type_=sa.Double).label("placed_for_s"),
        sa.func.date_part("epoch", ATTEMPTS.c.run_expected, type_=sa.Double).label(
            "run_expected_s"
        ),
    )
    .select_from(ATTEMPTS.outerjoin(JOBS, _IS_STOPPING))
    .where(ATTEMPTS.c.state.in_(OPEN))
)
_SOONEST: Final = _HELD_FOR.order_by(sa.asc("ends_in_s").nulls_last()).limit(
    sa.bindparam("soonest", type_=sa.Integer)
)


def _in_columns(held: sa.Subquery) -> sa.Executable:
    """Ask for one row of columns: thousands of rows would take ten times as long to come."""
    return sa.select(
        *(sa.func.array_agg(each, type_=sa.ARRAY(each.type)).label(each.name) for each in held.c)
    )


_HOLDINGS: Final = _in_columns(_HELD_FOR.subquery("held"))
_SOONEST_HOLDINGS: Final = _in_columns(_SOONEST.subquery("held"))
_ASKED: Final = (
    sa.func.unnest(
        sa.bindparam("tenants", type_=sa.ARRAY(sa.Text)),
        sa.bindparam("templates", type_=sa.ARRAY(sa.Text)),
    )
    .table_valued(sa.column("tenant", sa.Text), sa.column("template", sa.Text), name="asked")
    .render_derived()
)
_LATEST: Final = (
    sa.select((ATTEMPTS.c.ended_at - ATTEMPTS.c.created_at).label("took"))
    .where(
        ATTEMPTS.c.tenant == _ASKED.c.tenant,
        ATTEMPTS.c.template == _ASKED.c.template,
        IS_SUCCEEDED,
    )
    .order_by(ATTEMPTS.c.ended_at.desc())
    .limit(RUNS_MAX)
    .lateral("latest")
)
"""A probe of the index for each that is asked about."""
_TOOK: Final = (
    sa.select(_ASKED.c.tenant, _ASKED.c.template, sa.func.avg(_LATEST.c.took).label("took"))
    .select_from(_ASKED.join(_LATEST, sa.true()))
    .group_by(_ASKED.c.tenant, _ASKED.c.template)
)
_THEIRS: Final = ATTEMPTS.alias("theirs")
_SMALLER: Final = JOBS.alias("smaller")
_IS_ANYBODY_SMALLER: Final = (
    sa.select(sa.literal(1))
    .select_from(_THEIRS.join(_SMALLER, _SMALLER.c.id == _THEIRS.c.owner_id))
    .where(
        _THEIRS.c.state.in_(OPEN),
        _SMALLER.c.state.in_(PLACED),
        _SMALLER.c.priority < sa.bindparam("priority", type_=sa.Integer),
    )
    .exists()
)
"""Of no row of the statement around it, so it is looked for once, and ends with the first."""
_RUNNING: Final = (
    sa.select(
        ATTEMPTS.c.owner_id,
        ATTEMPTS.c.node_id,
        ATTEMPTS.c.tenant,
        *(ATTEMPTS.c[name] for name in from_resources(Resources())),
        (sa.func.statement_timestamp() - ATTEMPTS.c.created_at).label("placed_for"),
        _OVER_IN.label("ends_in"),
        JOBS.c.spec["timeouts"].label("timeouts"),
        JOBS.c.priority.label("job_priority"),
        JOBS.c.state.label("job_state"),
        JOBS.c.attempt_id.label("job_attempt_id"),
    )
    .outerjoin(JOBS, JOBS.c.id == ATTEMPTS.c.owner_id)
    .where(ATTEMPTS.c.state.in_(OPEN), _IS_ANYBODY_SMALLER)
)
_OPEN_WORK: Final = (
    sa.select(
        ATTEMPTS,
        (sa.func.clock_timestamp() - ATTEMPTS.c.created_at).label("placed_for"),
        JOBS.c.state.label("job_state"),
        JOBS.c.spec.label("job_spec"),
        JOBS.c.stop.label("job_stop"),
        JOBS.c.checkpoint.label("job_checkpoint"),
        JOBS.c.array_id,
        JOBS.c.array_index,
        JOBS.c.attempt_number.label("job_attempt_number"),
        REPLICAS.c.state.label("replica_state"),
        REPLICAS.c.reason.label("replica_reason"),
        REPLICAS.c.address.label("replica_address"),
        REPLICAS.c.attempt_id.label("replica_attempt_id"),
        REPLICAS.c.stop_requested_at.label("replica_stop_requested_at"),
        DEPLOYMENTS.c.id.label("deployment_id"),
        DEPLOYMENTS.c.spec.label("deployment_spec"),
        DEPLOYMENTS.c.model.label("deployment_model"),
    )
    .outerjoin(JOBS, JOBS.c.id == ATTEMPTS.c.owner_id)
    .outerjoin(REPLICAS, REPLICAS.c.id == ATTEMPTS.c.owner_id)
    .outerjoin(DEPLOYMENTS, DEPLOYMENTS.c.id == REPLICAS.c.deployment_id)
    .where(ATTEMPTS.c.state.in_(OPEN), ATTEMPTS.c.node_id == sa.bindparam("node_id"))
    .order_by(ATTEMPTS.c.id)
)
_GET: Final = (
    sa.select(ATTEMPTS).where(ATTEMPTS.c.id == sa.bindparam("attempt_id")).with_for_update()
)
_OF_OWNER: Final = (
    sa.select(ATTEMPTS)
    .where(
        ATTEMPTS.c.owner_id == sa.bindparam("owner_id"), ATTEMPTS.c.tenant == sa.bindparam("tenant")
    )
    .order_by(ATTEMPTS.c.number, ATTEMPTS.c.task)
    .limit(sa.bindparam("attempts_max", type_=sa.Integer))
)
_SHOWN: Final = ATTEMPTS.alias("shown")
_OF_OWNER_AFTER: Final = _OF_OWNER.where(
    sa.tuple_(ATTEMPTS.c.number, ATTEMPTS.c.task)
    > sa.select(_SHOWN.c.number, _SHOWN.c.task)
    .where(_SHOWN.c.id == sa.bindparam("after"), _SHOWN.c.tenant == sa.bindparam("tenant"))
    .scalar_subquery()
)
_GOES_ON: Final = sa.select(
    sa.exists().where(
        ATTEMPTS.c.owner_id == sa.bindparam("owner_id"),
        ATTEMPTS.c.number == sa.bindparam("number"),
        ATTEMPTS.c.state.in_(OPEN),
    )
)
_NODES_OF: Final = (
    sa.select(ATTEMPTS.c.node_id)
    .where(ATTEMPTS.c.owner_id == sa.bindparam("owner_id"), ATTEMPTS.c.state.in_(OPEN))
    .distinct()
    .order_by(ATTEMPTS.c.node_id)
)
_ENDS: Final = sa.select(ATTEMPTS.c.id, ATTEMPTS.c.ended_at).where(
    ATTEMPTS.c.id.in_(sa.bindparam("attempt_ids", expanding=True))
)


class PostgresAttempts:
    """All tenants' attempts; implements `ports.Attempts`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._rows = VersionedRows(connection, _UPDATE, kind="attempt")

    async def add(self, attempts: Sequence[Attempt]) -> None:
        """Store new attempts."""
        if attempts:
            await self._connection.execute(_INSERT, [_new_row(attempt) for attempt in attempts])

    async def goes_on(self, job_id: JobId, *, number: int) -> bool:
        """Tell whether one of the attempts of this number at a job is open."""
        given = {"owner_id": job_id, "number": number}
        return bool(await self._connection.scalar(_GOES_ON, given))

    async def nodes_of(self, job_id: JobId) -> Sequence[NodeId]:
        """Return the nodes on which a job has open attempts, by id."""
        found = await self._connection.scalars(_NODES_OF, {"owner_id": job_id})
        return [NodeId(node_id) for node_id in found]

    async def get(self, attempt_id: AttemptId) -> Attempt:
        """Return an attempt, locked."""
        found = await self._connection.execute(_GET, {"attempt_id": attempt_id})
        row = found.mappings().one_or_none()
        if row is None:
            raise NotFound("attempt", attempt_id)
        self._rows.read(row)
        return to_attempt(row)

    async def save(self, attempt: Attempt) -> None:
        """Store an attempt that this transaction has read."""
        await self._rows.write(attempt.id, from_attempt(attempt))

    async def ends(self, attempt_ids: Sequence[AttemptId]) -> Mapping[AttemptId, datetime | None]:
        """Return when each that is known ended."""
        found = await self._connection.execute(_ENDS, {"attempt_ids": attempt_ids})
        return {row.id: row.ended_at for row in found}

    async def of_owner(
        self, owner_id: str, *, tenant: TenantId, after: AttemptId | None, limit: int
    ) -> Sequence[Attempt]:
        """Return a tenant's attempts at one thing by number and task, those after one of them."""
        query = _OF_OWNER if after is None else _OF_OWNER_AFTER
        given = {"owner_id": owner_id, "tenant": tenant, "after": after, "attempts_max": limit}
        found = await self._connection.execute(query, given)
        return [to_attempt(row) for row in found.mappings()]

    async def held(self) -> Mapping[TenantId, Resources]:
        """Return what the open attempts of each tenant take together."""
        found = await self._connection.execute(_HELD)
        return {TenantId(row["tenant"]): to_resources(row) for row in found.mappings()}

    async def held_by(self, tenant: TenantId) -> Resources:
        """Return what the open attempts of one tenant take together."""
        found = await self._connection.execute(_HELD_BY_ONE, {"tenant": tenant})
        row = found.mappings().one_or_none()
        return Resources() if row is None else to_resources(row)

    async def holdings(self, *, soonest: int | None = None) -> Sequence[Holding]:
        """Return what open attempts hold, and for how long at most."""
        if soonest is None:
            found = await self._connection.execute(_HOLDINGS)
        else:
            found = await self._connection.execute(_SOONEST_HOLDINGS, {"soonest": soonest})
        return to_holdings(found.mappings().one())

    async def running(self, *, preemptible_by: int) -> Sequence[Running]:
        """Return all that has open attempts, if a placed job of it has less than this priority."""
        found = await self._connection.execute(_RUNNING, {"priority": preemptible_by})
        return to_running(found.mappings().all())

    async def does_any_end(self) -> bool:
        """Tell whether an open attempt is a job's, which ends by itself; nothing is locked."""
        return bool(await self._connection.scalar(_DOES_ANY_END))

    async def took(
        self, templates: Collection[tuple[TenantId, str]]
    ) -> Mapping[tuple[TenantId, str], timedelta]:
        """Return how long the latest of tenants' templates took that succeeded, on average."""
        tenants, names = zip(*templates, strict=True) if templates else ((), ())
        given = {"tenants": list(tenants), "templates": list(names)}
        found = await self._connection.execute(_TOOK, given)
        return {(TenantId(row.tenant), row.template): row.took for row in found}

    async def open_on_node(self, node_id: NodeId) -> Sequence[AttemptWork]:
        """Return what is open on a node, oldest first."""
        found = await self._connection.execute(_OPEN_WORK, {"node_id": node_id})
        return [to_work(row) for row in found.mappings()]


def _new_row(attempt: Attempt) -> dict[str, Any]:
    return {
        "id": attempt.id,
        "tenant": attempt.tenant,
        "owner_kind": attempt.owner.kind,
        "owner_id": attempt.owner.id,
        "public_owner_id": attempt.owner.public_id,
        "number": attempt.number,
        "task": attempt.task,
        "task_count": attempt.task_count,
        "node_id": attempt.node_id,
        "run_max": attempt.run_max,
        "template": attempt.template,
        "run_expected": attempt.run_expected,
        "traceparent": attempt.traceparent,
        **from_resources(attempt.resources),
        **from_attempt(attempt),
    }


def from_attempt(attempt: Attempt) -> dict[str, Any]:
    """Return the columns that an attempt's moves change."""
    return {
        "state": attempt.state,
        "version": attempt.version,
        "log_location": to_document(attempt.log_location),
        "exit_code": attempt.exit_code,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "end_reason": attempt.ending.reason if attempt.ending else None,
        "end_message": attempt.ending.message if attempt.ending else None,
    }


def to_attempt(row: sa.RowMapping) -> Attempt:
    """Return the attempt in a row."""
    return Attempt(
        id=row["id"],
        tenant=row["tenant"],
        owner=Owner(OwnerKind(row["owner_kind"]), row["owner_id"], row["public_owner_id"]),
        number=row["number"],
        node_id=row["node_id"],
        resources=to_resources(row),
        state=AttemptState(row["state"]),
        version=row["version"],
        created_at=row["created_at"],
        traceparent=row["traceparent"],
        log_location=maybe_from_document(LogLocation, row["log_location"]),
        exit_code=row["exit_code"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        ending=_ending(row),
        task=row["task"],
        task_count=row["task_count"],
        run_max=row["run_max"],
        template=row["template"],
        run_expected=row["run_expected"],
    )


def _ending(row: sa.RowMapping) -> AttemptEnding | None:
    if row["end_reason"] is None:
        return None
    return AttemptEnding(EndReason(row["end_reason"]), row["end_message"])


def to_holdings(columns: sa.RowMapping) -> Sequence[Holding]:
    """Return what attempts hold, told by columns; one without an end is no job's."""
    if columns["node_id"] is None:
        return []
    amounts = list(zip(*(columns[name] for name in from_resources(Resources())), strict=True))
    sizes = {each: Resources(*each) for each in set(amounts)}  # most are of a few sizes
    held = (sizes[amount] for amount in amounts)
    ends_in = (
        None if each is None else timedelta(seconds=max(0.0, each)) for each in columns["ends_in_s"]
    )
    runs = zip(columns["run_expected_s"], columns["placed_for_s"], strict=True)
    expected = (
        None if each is None else timedelta(seconds=expected_in_s(each, placed_for_s=placed_for_s))
        for each, placed_for_s in runs
    )
    rows = zip(columns["node_id"], columns["tenant"], held, ends_in, expected, strict=True)
    return list(map(Holding._make, rows))


def to_running(rows: Sequence[sa.RowMapping]) -> Sequence[Running]:
    """Return whose the open attempts in rows are, each owner once."""
    running: dict[str, Running] = {}
    for row in rows:
        if (earlier := running.get(row["owner_id"])) is None:
            running[row["owner_id"]] = _running(row)
        else:
            more = earlier.with_another(NodeId(row["node_id"]), to_resources(row))
            running[row["owner_id"]] = more
    return list(running.values())


def _running(row: sa.RowMapping) -> Running:
    timeouts = maybe_from_document(JobTimeouts, row["timeouts"])
    return Running(
        id=row["owner_id"],
        tenant=TenantId(row["tenant"]),
        held={NodeId(row["node_id"]): to_resources(row)},
        placed_for=row["placed_for"],
        priority=row["job_priority"],
        attempt_id=row["job_attempt_id"],
        ends_in=None if timeouts is None else max(timedelta(0), row["ends_in"]),
        stop_grace=timedelta(0) if timeouts is None else timeouts.stop_grace,
        is_stopping=timeouts is not None and row["job_state"] not in PLACED,
    )


def to_work(row: sa.RowMapping) -> AttemptWork:
    """Return the attempt in a row, joined with its owner."""
    attempt = to_attempt(row)
    if attempt.owner.kind is OwnerKind.JOB:
        return AttemptWork(
            attempt=attempt,
            owner=JobWork(
                job_id=row["owner_id"],
                state=JobState(row["job_state"]),
                spec=from_document(JobSpec, row["job_spec"]),
                checkpoint=maybe_from_document(Checkpoint, row["job_checkpoint"]),
                element=to_element(row),
            ),
            stop=maybe_from_document(StopRequest, row["job_stop"]),
            is_current=row["job_attempt_number"] == attempt.number,
            placed_for=row["placed_for"],
        )
    return AttemptWork(
        attempt=attempt,
        owner=ReplicaWork(
            replica_id=row["owner_id"],
            deployment_id=row["deployment_id"],
            deployment_name=from_document(DeploymentSpec, row["deployment_spec"]).name,
            image=from_document(DeploymentSpec, row["deployment_spec"]).image,
            model=from_document(ModelPin, row["deployment_model"]),
            address=row["replica_address"],
        ),
        stop=_replica_stop(row),
        is_current=row["replica_attempt_id"] == attempt.id,
        placed_for=row["placed_for"],
    )


def _replica_stop(row: sa.RowMapping) -> StopRequest | None:
    if row["replica_state"] != ReplicaState.STOPPING:
        return None
    return StopRequest(StopCause.CANCELLED, row["replica_reason"], row["replica_stop_requested_at"])
