"""When a node counts as lost.

Owns: the patience. Always holds: a node is not lost before it was found without a holder of its
lease so often in a row; a look that failed, or found the lease held, is none of the row's. So an
outage that ends, or a clock that leaps, gives every runner the time to be back (ADR-0030).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from services.scheduler.domain.identities import NodeId


@dataclass(frozen=True, slots=True)
class UnheldNode:
    """A node whose lease nobody holds."""

    node_id: NodeId
    since: datetime
    """When it ran out, by the database's clock."""
    unheld_for: timedelta
    """How long ago that was, by the same clock."""


@dataclass(slots=True)
class Looks:
    """What one leader's looks have found, one after another."""

    lost_after: timedelta
    in_a_row_min: int
    _found: dict[NodeId, tuple[datetime, int]] = field(default_factory=dict)
    """Since when nobody holds it, and how many looks in a row have found that."""

    def looked(self, unheld: Sequence[UnheldNode]) -> list[UnheldNode]:
        """Take in what a look has found; return the nodes that are lost."""
        self._found = {node.node_id: (node.since, self._count(node)) for node in unheld}
        return [node for node in unheld if self._is_lost(node)]

    def _count(self, node: UnheldNode) -> int:
        since, count = self._found.get(node.node_id, (node.since, 0))
        return count + 1 if since == node.since else 1

    def _is_lost(self, node: UnheldNode) -> bool:
        _, count = self._found[node.node_id]
        return node.unheld_for >= self.lost_after and count >= self.in_a_row_min
