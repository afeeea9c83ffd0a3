"""A tenant's queues in PostgreSQL: rows of those that are paused, names on jobs of all others."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.db.statements import take_turn
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.postgres.tables import ATTEMPTS, JOBS, QUEUES
from services.scheduler.domain.attempts.attempt import OPEN
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.queues.queue import Pause, Queue

_TENANT: Final = sa.bindparam("tenant", type_=sa.Text)
_PAUSES: Final = sa.select(QUEUES).where(QUEUES.c.tenant == _TENANT)
_PAUSE: Final = insert(QUEUES)
_RESUME: Final = sa.delete(QUEUES).where(
    QUEUES.c.tenant == _TENANT, QUEUES.c.name == sa.bindparam("queue")
)

_NONE: Final = sa.literal(0)


def _counting(
    tenant: sa.Column[Any],
    name: sa.Column[Any],
    *,
    queued: sa.ColumnElement[int] = _NONE,
    running: sa.ColumnElement[int] = _NONE,
) -> sa.Select[Any]:
    """Return rows of a queue's name, each for one of its jobs, or the rest of an array."""
    return sa.select(
        tenant.label("tenant"),
        name.label("name"),
        queued.label("queued"),
        running.label("running"),
        sa.cast(sa.null(), QUEUES.c.paused_at.type).label("paused_at"),
        sa.cast(sa.null(), sa.Text).label("paused_reason"),
    ).where(tenant == _TENANT)


_NAMED: Final = sa.union_all(
    _counting(JOBS.c.tenant, JOBS.c.queue, queued=JOBS.c.rest_count).where(
        JOBS.c.state == JobState.QUEUED
    ),
    # By what is open, of which there is no more than nodes hold, instead of by all jobs: each by
    # its id, since nothing finds a job by its attempt.
    _counting(ATTEMPTS.c.tenant, JOBS.c.queue, running=sa.literal(1))
    .join_from(ATTEMPTS, JOBS, JOBS.c.id == ATTEMPTS.c.owner_id)
    .where(
        ATTEMPTS.c.state.in_(OPEN),
        JOBS.c.tenant == _TENANT,
        JOBS.c.attempt_number == ATTEMPTS.c.number,
    )
    .group_by(ATTEMPTS.c.tenant, JOBS.c.queue, ATTEMPTS.c.owner_id),  # a row a job, not a task
    sa.select(
        QUEUES.c.tenant,
        QUEUES.c.name,
        _NONE,
        _NONE,
        QUEUES.c.paused_at,
        QUEUES.c.paused_reason,
    ).where(QUEUES.c.tenant == _TENANT),
).subquery("named")
_QUEUES: Final = (
    sa.select(
        _NAMED.c.name,
        sa.func.sum(_NAMED.c.queued).label("queued_count"),
        sa.func.sum(_NAMED.c.running).label("running_count"),
        sa.func.max(_NAMED.c.paused_at).label("paused_at"),
        sa.func.max(_NAMED.c.paused_reason).label("paused_reason"),
    )
    .where(_NAMED.c.tenant == _TENANT)
    .group_by(_NAMED.c.name)
    .order_by(_NAMED.c.name)
)
_ONE: Final = _QUEUES.where(_NAMED.c.name == sa.bindparam("queue"))
_PAGE: Final = _QUEUES.where(_NAMED.c.name > sa.bindparam("after", type_=sa.Text)).limit(
    sa.bindparam("queues_max", type_=sa.Integer)
)


class PostgresTenantQueues:
    """One tenant's queues; implements `ports.TenantQueues`."""

    def __init__(self, connection: AsyncConnection, tenant: TenantId) -> None:
        self._connection = connection
        self._tenant = tenant

    async def pauses(self) -> Mapping[str, Pause]:
        """Return this tenant's pauses, by queue."""
        found = await self._connection.execute(_PAUSES, {"tenant": self._tenant})
        return {row["name"]: to_pause(row) for row in found.mappings()}

    async def pauses_for_update(self) -> Mapping[str, Pause]:
        """Return this tenant's pauses, by queue, alone: the bound is exact."""
        await take_turn(self._connection, f"pauses of {self._tenant}")
        return await self.pauses()

    async def pause(self, pause: Pause) -> None:
        """Store a pause of a queue that has none."""
        row = {"name": pause.queue, "paused_at": pause.at, "paused_reason": pause.reason}
        await self._connection.execute(_PAUSE, {"tenant": self._tenant, **row})

    async def resume(self, name: str) -> None:
        """End a queue's pause, if there is one."""
        await self._connection.execute(_RESUME, {"tenant": self._tenant, "queue": name})

    async def get(self, name: str) -> Queue:
        """Return a queue, also one of which there is nothing."""
        found = await self._connection.execute(_ONE, {"tenant": self._tenant, "queue": name})
        row = found.mappings().one_or_none()
        return Queue(name) if row is None else to_queue(row)

    async def page(self, *, after: str | None, limit: int) -> Sequence[Queue]:
        """Return a page of this tenant's queues."""
        given = {"tenant": self._tenant, "after": after or "", "queues_max": limit}
        found = await self._connection.execute(_PAGE, given)
        return [to_queue(row) for row in found.mappings()]


def to_pause(row: sa.RowMapping) -> Pause:
    """Return the pause in a row."""
    return Pause(row["name"], row["paused_at"], row["paused_reason"])


def to_queue(row: sa.RowMapping) -> Queue:
    """Return the queue in a row; one without an instant is not paused."""
    pause = None if row["paused_at"] is None else to_pause(row)
    return Queue(row["name"], pause, row["queued_count"], row["running_count"])
