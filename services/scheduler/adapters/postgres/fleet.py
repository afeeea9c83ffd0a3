"""Nodes and the line of those who wait for them, in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound
from services.scheduler.adapters.postgres.rows import from_resources, to_resources
from services.scheduler.adapters.postgres.tables import DEPLOYMENTS, JOBS, NODES, REPLICAS
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.deployments.replica import ReplicaState
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.plan import Head

_COULD_FIT: Final = sa.select(
    sa.func.bool_or(
        sa.and_(
            *(NODES.c[column] >= sa.bindparam(column) for column in from_resources(Resources()))
        )
    )
)


class PostgresNodes:
    """The nodes; implements `ports.Nodes`."""

    def __init__(self, connection: AsyncConnection, *, now: datetime) -> None:
        self._connection = connection
        self._now = now

    async def register(self, node_id: NodeId, capacity: Resources) -> None:
        """Add a node or change its capacity."""
        seen = {**from_resources(capacity), "heartbeat_at": self._now}
        await self._connection.execute(
            insert(NODES)
            .values(
                id=node_id,
                registered_at=self._now,
                **from_resources(Resources(), prefix="used_"),
                **seen,
            )
            .on_conflict_do_update(index_elements=[NODES.c.id], set_=seen)
        )

    async def heartbeat(self, node_id: NodeId) -> None:
        """Note that the node's runner is alive."""
        await self._connection.execute(
            sa.update(NODES).where(NODES.c.id == node_id).values(heartbeat_at=self._now)
        )

    async def get(self, node_id: NodeId) -> Node:
        """Return a node, locked."""
        found = await self._connection.execute(
            sa.select(NODES).where(NODES.c.id == node_id).with_for_update()
        )
        row = found.mappings().one_or_none()
        if row is None:
            raise NotFound("node", node_id)
        return to_node(row)

    async def alive(self, *, since: datetime) -> Sequence[Node]:
        """Return nodes with a recent heartbeat."""
        found = await self._connection.execute(
            sa.select(NODES).where(NODES.c.heartbeat_at >= since).order_by(NODES.c.id)
        )
        return [to_node(row) for row in found.mappings()]

    async def save(self, node: Node) -> None:
        """Store what is used of a node, which this transaction holds locked."""
        await self._connection.execute(
            sa.update(NODES)
            .where(NODES.c.id == node.id)
            .values(from_resources(node.used, prefix="used_"))
        )

    async def release(self, node_id: NodeId, resources: Resources) -> None:
        """Give an ended attempt's capacity back."""
        released = await self._connection.execute(
            sa.update(NODES)
            .where(NODES.c.id == node_id)
            .values(
                {
                    column: NODES.c[column] - amount
                    for column, amount in from_resources(resources, prefix="used_").items()
                }
            )
        )
        assert released.rowcount == 1, "attempts are placed on registered nodes"

    async def could_ever_fit(self, resources: Resources) -> bool:
        """Tell whether some node is large enough, or none has registered yet."""
        answer = await self._connection.scalar(_COULD_FIT, from_resources(resources))
        return answer is not False  # null: no node yet


class PostgresLine:
    """Who waits for capacity; implements `ports.Line`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def heads(self, *, limit: int, alive_since: datetime) -> Sequence[Head]:
        """Return the heads of both kinds that a living node could hold, in order."""
        jobs = await self._connection.execute(
            sa.select(
                JOBS.c.id,
                JOBS.c.priority,
                JOBS.c.queue_seq,
                JOBS.c.cpu_millicores,
                JOBS.c.memory_bytes,
                JOBS.c.gpu_count,
            )
            .where(JOBS.c.state == JobState.QUEUED, _could_hold(JOBS, alive_since))
            .order_by(JOBS.c.priority.desc(), JOBS.c.queue_seq)
            .limit(limit)
        )
        replicas = await self._connection.execute(
            sa.select(
                REPLICAS.c.id,
                sa.literal(0).label("priority"),
                REPLICAS.c.queue_seq,
                DEPLOYMENTS.c.cpu_millicores,
                DEPLOYMENTS.c.memory_bytes,
                DEPLOYMENTS.c.gpu_count,
            )
            .join_from(REPLICAS, DEPLOYMENTS, DEPLOYMENTS.c.id == REPLICAS.c.deployment_id)
            .where(REPLICAS.c.state == ReplicaState.QUEUED, _could_hold(DEPLOYMENTS, alive_since))
            .order_by(REPLICAS.c.queue_seq)
            .limit(limit)
        )
        return [
            *(to_head(row, OwnerKind.REPLICA) for row in replicas.mappings()),
            *(to_head(row, OwnerKind.JOB) for row in jobs.mappings()),
        ]


def _could_hold(asking: sa.Table, alive_since: datetime) -> sa.ColumnElement[bool]:
    """Tell whether some living node, if it were empty, could hold what a row asks for."""
    amounts = (NODES.c[column] >= asking.c[column] for column in from_resources(Resources()))
    return sa.exists().where(NODES.c.heartbeat_at >= alive_since, *amounts)


def to_node(row: sa.RowMapping) -> Node:
    """Return the node in a row."""
    return Node(
        id=row["id"],
        capacity=to_resources(row),
        used=to_resources(row, prefix="used_"),
        heartbeat_at=row["heartbeat_at"],
    )


def to_head(row: sa.RowMapping, kind: OwnerKind) -> Head:
    """Return who waits in a row."""
    return Head(kind, row["id"], row["priority"], row["queue_seq"], to_resources(row))
