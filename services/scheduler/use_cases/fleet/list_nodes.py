"""Show the nodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.scheduler.domain.fleet.node import Node
from services.scheduler.use_cases.ports import UnitOfWork

SHOWN_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class ShownNode:
    """A node, and whether its runner was heard of lately."""

    node: Node
    is_alive: bool


@dataclass(frozen=True, slots=True)
class ListNodes:
    """Show what attempts run on; nodes are no tenant's."""

    unit_of_work: UnitOfWork
    node_silence_max: timedelta

    async def __call__(self) -> tuple[Sequence[ShownNode], int]:
        """Return the first nodes by id, and how many there are."""
        async with self.unit_of_work.system(because="nodes are no tenant's") as tx:
            nodes, count = await tx.nodes.first(SHOWN_MAX)
            node_ids = [node.id for node in nodes]
            alive = await tx.nodes.alive(node_ids, silence_max=self.node_silence_max)
        return [ShownNode(node, node.id in alive) for node in nodes], count
