"""Nodes and the line of those who wait for them, in PostgreSQL.

The database's clock tells when a node was heard of, and whether that is recent (ADR-0007).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.db.statements import take_turns
from services.chassis.errors import NotFound
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.postgres.rows import (
    from_resources,
    is_one_of,
    maybe_from_document,
    to_resources,
)
from services.scheduler.adapters.postgres.tables import (
    ATTEMPTS,
    CHASSIS,
    DEPLOYMENTS,
    JOBS,
    NODES,
    REPLICAS,
)
from services.scheduler.domain.attempts.attempt import OPEN, OwnerKind
from services.scheduler.domain.deployments.replica import ReplicaState
from services.scheduler.domain.fleet.loss import UnheldNode
from services.scheduler.domain.fleet.node import HeldWork, Node, lease_name
from services.scheduler.domain.fleet.reach import FleetDoors, FleetReach
from services.scheduler.domain.identities import JobId, NodeId
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.jobs.spec import JobTimeouts
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.plan import Head

# Statements are built once: building one costs about as much as running it.
_AMOUNTS: Final = tuple(from_resources(Resources()))
_DATABASE_NOW: Final = sa.func.clock_timestamp()
# One instant for all rows of a statement, so that an index may be asked and counts agree.
_IS_ALIVE: Final = NODES.c.heartbeat_at >= sa.func.statement_timestamp() - sa.bindparam(
    "silence_max", type_=sa.Interval
)
_IS_AT_WORK: Final = sa.and_(
    _IS_ALIVE,
    NODES.c.runtime_down_since.is_(None),
    NODES.c.cordoned_at.is_(None),
    NODES.c.lost_at.is_(None),
)
_GET: Final = sa.select(NODES).where(NODES.c.id == sa.bindparam("node_id")).with_for_update()
_AT_WORK: Final = sa.select(NODES).where(_IS_AT_WORK).order_by(NODES.c.id)
_ALIVE: Final = sa.select(NODES.c.id).where(_IS_ALIVE, is_one_of(NODES.c.id, "node_ids"))
_HELD: Final = (
    sa.select(ATTEMPTS.c.node_id, ATTEMPTS.c.tenant, ATTEMPTS.c.owner_kind)
    .where(ATTEMPTS.c.state.in_(OPEN), is_one_of(ATTEMPTS.c.node_id, "node_ids"))
    .distinct()
)
_DRAINING: Final = sa.select(NODES.c.id, NODES.c.draining_since).where(
    NODES.c.draining_since.is_not(None)
)
IS_OPEN_ON_DRAINED: Final = sa.and_(
    ATTEMPTS.c.state.in_(OPEN),
    ATTEMPTS.c.node_id.in_(sa.select(NODES.c.id).where(NODES.c.draining_since.is_not(None))),
)
"""Of an attempt: it has capacity of a node that is drained. By an index, as a drain may last."""
_LEASES: Final = CHASSIS.lease
_UNHELD_FOR: Final = _DATABASE_NOW - _LEASES.c.expires_at
_UNHELD: Final = (
    sa.select(
        NODES.c.id,
        _LEASES.c.expires_at,
        _UNHELD_FOR.label("unheld_for"),
    )
    .join(_LEASES, _LEASES.c.name == sa.literal(lease_name(NodeId(""))) + NODES.c.id)
    .where(
        timedelta(0) < _UNHELD_FOR,
        sa.or_(
            NODES.c.lost_at.is_(None),
            sa.exists().where(ATTEMPTS.c.node_id == NODES.c.id, ATTEMPTS.c.state.in_(OPEN)),
        ),
    )
    .order_by(_LEASES.c.expires_at)
    .limit(sa.bindparam("nodes_max", type_=sa.Integer))
)
_SAVE: Final = sa.update(NODES).where(NODES.c.id == sa.bindparam("node_id"))
_RELEASE: Final = (
    sa.update(NODES)
    .where(NODES.c.id == sa.bindparam("node_id"))
    .values(
        {
            f"used_{name}": NODES.c[f"used_{name}"] - sa.bindparam(f"freed_{name}")
            for name in _AMOUNTS
        }
    )
)
_IS_LARGE_ENOUGH: Final = sa.and_(*(NODES.c[column] >= sa.bindparam(column) for column in _AMOUNTS))
_REACH: Final = sa.select(
    sa.func.bool_or(_IS_LARGE_ENOUGH).label("could_hold"),
    *(sa.func.max(NODES.c[column]).label(column) for column in _AMOUNTS),
)
_OWN_BYTES: Final = (
    sa.select(sa.func.coalesce(sa.func.sum(ATTEMPTS.c.memory_bytes), 0))
    .where(
        ATTEMPTS.c.tenant == sa.bindparam("tenant"),
        ATTEMPTS.c.state.in_(OPEN),
        ATTEMPTS.c.node_id == NODES.c.id,
    )
    .correlate(NODES)
    .scalar_subquery()
)
_IS_ANOTHERS: Final = sa.and_(
    sa.not_(NODES.c.allows_mixed_tenants), NODES.c.used_memory_bytes > _OWN_BYTES
)
"""Whether a node has another tenant's work, and no room beside it. Without a look at others' rows
(ADR-0020): whatever runs takes memory, and what a tenant's own attempts don't take is others'."""
_DOORS: Final = sa.select(
    sa.func.count().label("node_count"),
    *(
        sa.func.count().filter(_IS_LARGE_ENOUGH, state).label(name)
        for name, state in (
            ("open_count", sa.and_(_IS_AT_WORK, sa.not_(_IS_ANOTHERS))),
            ("held_count", sa.and_(_IS_AT_WORK, _IS_ANOTHERS)),
            ("cordoned_count", NODES.c.cordoned_at.is_not(None)),
            ("silent_count", sa.and_(NODES.c.cordoned_at.is_(None), ~_IS_ALIVE)),
            (
                "runtime_down_count",
                sa.and_(
                    NODES.c.cordoned_at.is_(None),
                    _IS_ALIVE,
                    NODES.c.runtime_down_since.is_not(None),
                ),
            ),
        )
    ),
).select_from(NODES)


def _could_hold(asking: sa.Table, *, tenant: sa.Column[Any]) -> sa.ColumnElement[bool]:
    """Tell whether some node at work, once its jobs are over, could hold what a row asks for."""
    others_replicas = (
        sa.exists()
        .where(
            ATTEMPTS.c.node_id == NODES.c.id,
            ATTEMPTS.c.state.in_(OPEN),
            ATTEMPTS.c.owner_kind == OwnerKind.REPLICA.value,
            ATTEMPTS.c.tenant != tenant,
        )
        .correlate(NODES, tenant.table)  # by itself it would see its next surroundings alone
    )
    return sa.exists().where(
        _IS_AT_WORK,
        *(NODES.c[name] >= asking.c[name] for name in _AMOUNTS),
        sa.or_(NODES.c.allows_mixed_tenants, ~others_replicas),
    )


_LEFT: Final = (
    sa.func.unnest(
        sa.bindparam("left_tenants", type_=ARRAY(sa.Text)),
        *(sa.bindparam(f"left_{name}", type_=ARRAY(sa.BigInteger)) for name in _AMOUNTS),
    )
    .table_valued("tenant", *_AMOUNTS, name="may_take")
    .render_derived()
)


def _may_take(tenant: sa.Column[Any], asking: sa.Table) -> sa.ColumnElement[bool]:
    """Tell whether a row asks for no more than its tenant has left, if that is bounded."""
    is_more = sa.or_(*(asking.c[name] > _LEFT.c[name] for name in _AMOUNTS))
    return ~sa.exists().where(_LEFT.c.tenant == tenant, is_more)


_TENANTS: Final = sa.bindparam("tenants", type_=ARRAY(sa.Text))
_JOB_HEADS: Final = (
    sa.select(
        sa.literal(OwnerKind.JOB.value).label("kind"),
        JOBS.c.id,
        JOBS.c.tenant,
        JOBS.c.priority,
        JOBS.c.queue_seq,
        *(JOBS.c[name] for name in _AMOUNTS),
        JOBS.c.spec["timeouts"].label("timeouts"),
    )
    .where(
        JOBS.c.state == JobState.QUEUED,
        sa.or_(JOBS.c.retry_at.is_(None), JOBS.c.retry_at <= sa.bindparam("at")),
        _may_take(JOBS.c.tenant, JOBS),
        _could_hold(JOBS, tenant=JOBS.c.tenant),
    )
    .order_by(JOBS.c.priority.desc(), JOBS.c.queue_seq)
    .limit(sa.bindparam("heads_max", type_=sa.Integer))
)
_REPLICA_HEADS: Final = (
    sa.select(
        sa.literal(OwnerKind.REPLICA.value),
        REPLICAS.c.id,
        REPLICAS.c.tenant,
        sa.literal(0),
        REPLICAS.c.queue_seq,
        *(DEPLOYMENTS.c[name] for name in _AMOUNTS),
        sa.cast(sa.null(), JSONB),
    )
    .join_from(REPLICAS, DEPLOYMENTS, DEPLOYMENTS.c.id == REPLICAS.c.deployment_id)
    .where(
        REPLICAS.c.state == ReplicaState.QUEUED,
        _may_take(REPLICAS.c.tenant, DEPLOYMENTS),
        _could_hold(DEPLOYMENTS, tenant=REPLICAS.c.tenant),
    )
    .order_by(REPLICAS.c.queue_seq)
    .limit(sa.bindparam("heads_max", type_=sa.Integer))
)
_HEADS: Final = sa.union_all(_JOB_HEADS, _REPLICA_HEADS)
_OTHERS: Final = JOBS.alias("other")
_PLACE: Final = (
    sa.select(sa.func.count())
    .select_from(JOBS.join(_OTHERS, _OTHERS.c.state == JobState.QUEUED))
    .where(
        JOBS.c.id == sa.bindparam("job_id"),
        sa.or_(
            _OTHERS.c.priority > JOBS.c.priority,
            sa.and_(_OTHERS.c.priority == JOBS.c.priority, _OTHERS.c.queue_seq < JOBS.c.queue_seq),
        ),
    )
)
_QUEUED_COUNTS: Final = (
    sa.select(JOBS.c.tenant, sa.func.count().label("job_count"))
    .where(JOBS.c.tenant == sa.any_(_TENANTS), JOBS.c.state == JobState.QUEUED)
    .group_by(JOBS.c.tenant)
)
_WAITING_TENANTS: Final = sa.union(
    sa.select(JOBS.c.tenant).where(JOBS.c.state == JobState.QUEUED),
    sa.select(REPLICAS.c.tenant).where(REPLICAS.c.state == ReplicaState.QUEUED),
)


class PostgresFleet:
    """What callers may know of the nodes; implements `ports.Fleet`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def reach_for(self, resources: Resources) -> FleetReach:
        """Tell whether some node is large enough for this, and the most that any has."""
        found = await self._connection.execute(_REACH, from_resources(resources))
        row = found.mappings().one()
        if row["could_hold"] is None:  # no node yet
            return FleetReach(is_enough=True, largest=Resources())
        return FleetReach(is_enough=row["could_hold"], largest=to_resources(row))

    async def doors_for(
        self, resources: Resources, *, tenant: TenantId, silence_max: timedelta
    ) -> FleetDoors:
        """Tell which of the nodes that are large enough take anything new of a tenant's."""
        asked = {**from_resources(resources), "tenant": tenant, "silence_max": silence_max}
        found = await self._connection.execute(_DOORS, asked)
        return FleetDoors(**found.mappings().one())


class PostgresNodes(PostgresFleet):
    """The nodes; implements `ports.Nodes`."""

    async def register(
        self,
        node_id: NodeId,
        capacity: Resources,
        *,
        runtime: str,
        allows_mixed_tenants: bool,
    ) -> bool:
        """Add a node or change what it has; tell whether it counts as lost."""
        seen = {
            **from_resources(capacity),
            "runtime": runtime,
            "allows_mixed_tenants": allows_mixed_tenants,
            "heartbeat_at": _DATABASE_NOW,
        }
        lost_at = await self._connection.scalar(
            insert(NODES)
            .values(
                id=node_id,
                registered_at=_DATABASE_NOW,
                **from_resources(Resources(), prefix="used_"),
                **seen,
            )
            .on_conflict_do_update(index_elements=[NODES.c.id], set_=seen)
            .returning(NODES.c.lost_at)
        )
        return lost_at is not None

    async def heartbeat(self, node_id: NodeId, *, is_runtime_up: bool) -> None:
        """Note that the node's runner is alive, and whether its runtime is."""
        down_since = sa.func.coalesce(NODES.c.runtime_down_since, _DATABASE_NOW)
        await self._connection.execute(
            sa.update(NODES)
            .where(NODES.c.id == node_id)
            .values(
                heartbeat_at=_DATABASE_NOW,
                runtime_down_since=None if is_runtime_up else down_since,
            )
        )

    async def get(self, node_id: NodeId) -> Node:
        """Return a node, locked, with what it holds."""
        found = await self._connection.execute(_GET, {"node_id": node_id})
        row = found.mappings().one_or_none()
        if row is None:
            raise NotFound("node", node_id)
        [node] = await self._with_what_they_hold([to_node(row)])
        return node

    async def at_work(self, *, silence_max: timedelta) -> Sequence[Node]:
        """Return open nodes with a recent heartbeat whose runtime answers, with what they hold."""
        found = await self._connection.execute(_AT_WORK, {"silence_max": silence_max})
        return await self._with_what_they_hold([to_node(row) for row in found.mappings()])

    async def alive(
        self, node_ids: Sequence[NodeId], *, silence_max: timedelta
    ) -> Collection[NodeId]:
        """Return those of the nodes that have a recent heartbeat."""
        asked = {"node_ids": node_ids, "silence_max": silence_max}
        return {NodeId(each) for each in await self._connection.scalars(_ALIVE, asked)}

    async def _with_what_they_hold(self, nodes: Sequence[Node]) -> Sequence[Node]:
        """Say of nodes whose work they hold, where that keeps others' away.

        In a statement of its own: it sees all that was committed before a node's lock was had.
        """
        # Of a node that holds nothing, nothing is booked: it need not be asked for.
        asked = [
            node.id for node in nodes if not node.allows_mixed_tenants and node.used != Resources()
        ]
        if not asked:
            return nodes
        found = await self._connection.execute(_HELD, {"node_ids": asked})
        holds: dict[NodeId, set[HeldWork]] = {}
        for row in found:
            held = HeldWork(TenantId(row.tenant), OwnerKind(row.owner_kind))
            holds.setdefault(NodeId(row.node_id), set()).add(held)
        return [replace(node, holds=frozenset(holds.get(node.id, ()))) for node in nodes]

    async def draining(self) -> Mapping[NodeId, datetime]:
        """Return since when nodes are drained, of those that are."""
        found = await self._connection.execute(_DRAINING)
        return {NodeId(row.id): row.draining_since for row in found}

    async def unheld(self, *, limit: int) -> Sequence[UnheldNode]:
        """Return nodes whose lease nobody holds, the longest first."""
        found = await self._connection.execute(_UNHELD, {"nodes_max": limit})
        return [UnheldNode(NodeId(row.id), row.expires_at, row.unheld_for) for row in found]

    async def first(self, limit: int) -> tuple[Sequence[Node], int]:
        """Return nodes by id, silent ones too, and how many there are."""
        found = await self._connection.execute(sa.select(NODES).order_by(NODES.c.id).limit(limit))
        count = await self._connection.scalar(sa.select(sa.func.count()).select_from(NODES))
        return [to_node(row) for row in found.mappings()], count or 0

    async def save(self, node: Node) -> None:
        """Store what is used of a node, which this transaction holds locked, and its doors."""
        await self._connection.execute(
            _SAVE,
            {
                "node_id": node.id,
                "cordoned_at": node.cordoned_at,
                "draining_since": node.draining_since,
                "lost_at": node.lost_at,
                **from_resources(node.used, prefix="used_"),
            },
        )

    async def release(self, node_id: NodeId, resources: Resources) -> None:
        """Give an ended attempt's capacity back."""
        released = await self._connection.execute(
            _RELEASE, {"node_id": node_id, **from_resources(resources, prefix="freed_")}
        )
        assert released.rowcount == 1, "attempts are placed on registered nodes"


class PostgresLine:
    """Who waits for capacity; implements `ports.Line`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def tenants(self) -> Sequence[TenantId]:
        """Return all who have something in line."""
        return list(await self._connection.scalars(_WAITING_TENANTS))

    async def queued_counts(self, tenants: Sequence[TenantId]) -> Mapping[TenantId, int]:
        """Count jobs in line, alone: the bound is exact, however many submit at once."""
        if not tenants:
            return {}
        await take_turns(self._connection, [f"line of {tenant}" for tenant in tenants])
        return await self._counts(tenants)

    async def queued_count(self, tenant: TenantId) -> int:
        """Count a tenant's jobs in line as they are just now."""
        return (await self._counts([tenant])).get(tenant, 0)

    async def place_of(self, job_id: JobId) -> int:
        """Return how many jobs stand before one in line."""
        return await self._connection.scalar(_PLACE, {"job_id": job_id}) or 0

    async def heads(
        self,
        *,
        at: datetime,
        silence_max: timedelta,
        left: Mapping[TenantId, Resources],
        limit: int,
    ) -> Sequence[Head]:
        """Return the heads of both kinds that may run and a node at work could hold."""
        amounts = [from_resources(each) for each in left.values()]
        given = {
            "heads_max": limit,
            "at": at,
            "silence_max": silence_max,
            "left_tenants": list(left),
            **{f"left_{name}": [each[name] for each in amounts] for name in _AMOUNTS},
        }
        found = await self._connection.execute(_HEADS, given)
        return [to_head(row) for row in found.mappings()]

    async def _counts(self, tenants: Sequence[TenantId]) -> Mapping[TenantId, int]:
        found = await self._connection.execute(_QUEUED_COUNTS, {"tenants": list(tenants)})
        return {TenantId(row.tenant): row.job_count for row in found}


def to_node(row: sa.RowMapping) -> Node:
    """Return the node in a row."""
    return Node(
        id=row["id"],
        capacity=to_resources(row),
        used=to_resources(row, prefix="used_"),
        heartbeat_at=row["heartbeat_at"],
        runtime=row["runtime"],
        runtime_down_since=row["runtime_down_since"],
        cordoned_at=row["cordoned_at"],
        draining_since=row["draining_since"],
        lost_at=row["lost_at"],
        allows_mixed_tenants=row["allows_mixed_tenants"],
    )


def to_head(row: sa.RowMapping) -> Head:
    """Return who waits in a row; one without time-outs is no job."""
    timeouts = maybe_from_document(JobTimeouts, row["timeouts"])
    return Head(
        OwnerKind(row["kind"]),
        row["id"],
        row["tenant"],
        row["priority"],
        row["queue_seq"],
        to_resources(row),
        run_max=None if timeouts is None else timeouts.run,
    )
