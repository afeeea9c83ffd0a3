"""Say that a node is there, what it has, and what is to be done on it."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.scheduler.domain.attempts.work import AttemptWork
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.use_cases.ports import Lease, UnitOfWork


@dataclass(frozen=True, slots=True)
class KeepNode:
    """Keep one node in the fleet for as long as its lease is held."""

    unit_of_work: UnitOfWork
    node_id: NodeId
    capacity: Resources

    async def register(self, lease: Lease) -> None:
        """Put the node into the fleet with its capacity."""
        async with self.unit_of_work.system(because="nodes are no tenant's") as tx:
            await tx.hold(lease)
            await tx.nodes.register(self.node_id, self.capacity)

    async def heartbeat(self, lease: Lease) -> None:
        """Say that it is alive."""
        async with self.unit_of_work.system(because="nodes are no tenant's") as tx:
            await tx.hold(lease)
            await tx.nodes.heartbeat(self.node_id)

    async def open_attempts(self) -> Sequence[AttemptWork]:
        """Return what is to be run on it, or runs."""
        async with self.unit_of_work.system(because="a node runs any tenant's attempts") as tx:
            return await tx.attempts.open_on_node(self.node_id)
