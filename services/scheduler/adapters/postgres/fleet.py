"""Nodes in PostgreSQL.

The database's clock tells when a node was heard of, and whether that is recent (ADR-0007).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.postgres.rows import (
    from_resources,
    is_one_of,
    to_resources,
)
from services.scheduler.adapters.postgres.tables import (
    ATTEMPTS,
    CHASSIS,
    NODES,
)
from services.scheduler.domain.attempts.attempt import OPEN, OwnerKind
from services.scheduler.domain.fleet.loss import UnheldNode
from services.scheduler.domain.fleet.node import HeldWork, Node, lease_name
from services.scheduler.domain.fleet.reach import FleetDoors, FleetReach
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources

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
_NODE: Final = (
    NODES.c.id,
    *(NODES.c[name] for name in _AMOUNTS),
    *(NODES.c[f"used_{name}"] for name in _AMOUNTS),
    NODES.c.heartbeat_at,
    NODES.c.runtime,
    NODES.c.runtime_down_since,
    NODES.c.cordoned_at,
    NODES.c.draining_since,
    NODES.c.lost_at,
    NODES.c.allows_mixed_tenants,
)
"""As `to_node` takes them."""
_SOME: Final = (
    sa.select(*_NODE)
    .where(is_one_of(NODES.c.id, "node_ids"))
    .order_by(NODES.c.id)
    .with_for_update()
)
_FIRST: Final = (
    sa.select(*_NODE).order_by(NODES.c.id).limit(sa.bindparam("nodes_max", type_=sa.Integer))
)
_AT_WORK: Final = sa.select(*_NODE).where(_IS_AT_WORK).order_by(NODES.c.id)
_CAPACITY: Final = sa.select(
    *(
        sa.cast(sa.func.coalesce(sa.func.sum(NODES.c[name]), 0), sa.BigInteger).label(name)
        for name in _AMOUNTS
    )
).where(_IS_AT_WORK)
_AS_TEXT: Final = sa.func.concat_ws(
    " ",
    NODES.c.id,
    *(NODES.c[f"{prefix}{name}"] for prefix in ("", "used_") for name in _AMOUNTS),
    NODES.c.allows_mixed_tenants,
)
_FINGERPRINT: Final = sa.select(
    sa.cast(sa.func.sum(sa.func.hashtextextended(_AS_TEXT, 0)), sa.Text)
).where(_IS_AT_WORK)
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
_BOOKED: Final = (
    sa.func.unnest(
        sa.bindparam("node_ids", type_=ARRAY(sa.Text)),
        *(sa.bindparam(f"of_nodes_{name}", type_=ARRAY(sa.BigInteger)) for name in _AMOUNTS),
    )
    .table_valued("node_id", *_AMOUNTS, name="booked")
    .render_derived()
)
_BOOK: Final = (
    sa.update(NODES)
    .where(NODES.c.id == _BOOKED.c.node_id)
    .values({f"used_{name}": _BOOKED.c[name] for name in _AMOUNTS})
)
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
        for node in await self.some([node_id]):
            return node
        raise NotFound("node", node_id)

    async def some(self, node_ids: Collection[NodeId]) -> Sequence[Node]:
        """Return nodes by id, locked, with what they hold."""
        found = await self._connection.execute(_SOME, {"node_ids": list(node_ids)})
        return await self._with_what_they_hold([to_node(row) for row in found])

    async def at_work(self, *, silence_max: timedelta) -> Sequence[Node]:
        """Return open nodes with a recent heartbeat whose runtime answers, with what they hold."""
        found = await self._connection.execute(_AT_WORK, {"silence_max": silence_max})
        return await self._with_what_they_hold([to_node(row) for row in found])

    async def capacity_at_work(self, *, silence_max: timedelta) -> Resources:
        """Return what open nodes with a recent heartbeat, whose runtime answers, have together."""
        found = await self._connection.execute(_CAPACITY, {"silence_max": silence_max})
        return to_resources(found.mappings().one())

    async def fingerprint_at_work(self, *, silence_max: timedelta) -> str:
        """Return what tells nodes at work apart from themselves at another time."""
        return await self._connection.scalar(_FINGERPRINT, {"silence_max": silence_max}) or ""

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
        found = await self._connection.execute(_FIRST, {"nodes_max": limit})
        count = await self._connection.scalar(sa.select(sa.func.count()).select_from(NODES))
        return [to_node(row) for row in found], count or 0

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

    async def book(self, nodes: Sequence[Node]) -> None:
        """Store what is used of nodes, which this transaction holds locked, and nothing else."""
        if nodes:
            used = [from_resources(node.used) for node in nodes]
            amounts = {f"of_nodes_{name}": [each[name] for each in used] for name in _AMOUNTS}
            given = {"node_ids": [node.id for node in nodes], **amounts}
            await self._connection.execute(_BOOK, given)

    async def release(self, node_id: NodeId, resources: Resources) -> None:
        """Give an ended attempt's capacity back."""
        released = await self._connection.execute(
            _RELEASE, {"node_id": node_id, **from_resources(resources, prefix="freed_")}
        )
        assert released.rowcount == 1, "attempts are placed on registered nodes"


def to_node(row: Iterable[Any]) -> Node:
    """Return the node in a row of `_NODE`: by place, which takes half as long as by name."""
    node_id, cpu, memory, gpus, used_cpu, used_memory, used_gpus, *others = row
    capacity, used = Resources(cpu, memory, gpus), Resources(used_cpu, used_memory, used_gpus)
    return Node(node_id, capacity, used, *others)
