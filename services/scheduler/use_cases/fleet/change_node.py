"""Close a node to what is new, empty it, or open it again."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from loguru import logger

from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import NodeId
from services.scheduler.use_cases.fleet.list_nodes import ShownNode
from services.scheduler.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class ChangeNode:
    """What operators do to a node; each may be asked again and raises NotFound.

    `by` is who does it, for the log.
    """

    unit_of_work: UnitOfWork
    node_silence_max: timedelta
    changed: Callable[[], None]
    """Wakes whoever moves work on or off it."""

    async def cordon(self, node_id: NodeId, *, by: str) -> ShownNode:
        """Place nothing new on it; what runs there goes on."""
        return await self._change(node_id, lambda node, at: node.cordoned(at=at), by=by)

    async def drain(self, node_id: NodeId, *, by: str) -> ShownNode:
        """Cordon it, and move off what runs there."""
        return await self._change(node_id, lambda node, at: node.drained(at=at), by=by)

    async def uncordon(self, node_id: NodeId, *, by: str) -> ShownNode:
        """Open it; what was asked to leave it goes on leaving."""
        return await self._change(node_id, lambda node, _: node.uncordoned(), by=by)

    async def _change(
        self, node_id: NodeId, how: Callable[[Node, datetime], Node], *, by: str
    ) -> ShownNode:
        async with self.unit_of_work.system(because="nodes are no tenant's") as tx:
            node = how(await tx.nodes.get(node_id), tx.now)
            await tx.nodes.save(node)
            alive = await tx.nodes.alive([node_id], silence_max=self.node_silence_max)
        logger.info(
            "node changed",
            node_id=node.id,
            is_cordoned=node.cordoned_at is not None,
            is_drained=node.draining_since is not None,
            by=by,
        )
        self.changed()
        return ShownNode(node, node_id in alive)
