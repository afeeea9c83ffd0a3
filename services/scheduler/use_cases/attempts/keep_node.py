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
    runtime: str
    allows_mixed_tenants: bool
    """Whether its runtime lets several tenants' work be there at a time."""

    async def register(self, lease: Lease, *, is_runtime_up: bool) -> bool:
        """Put the node into the fleet with what it has; tell whether it counts as lost."""
        async with self.unit_of_work.system(because="nodes are no tenant's") as tx:
            await tx.hold(lease)
            is_lost = await tx.nodes.register(
                self.node_id,
                self.capacity,
                runtime=self.runtime,
                allows_mixed_tenants=self.allows_mixed_tenants,
            )
            await tx.nodes.heartbeat(self.node_id, is_runtime_up=is_runtime_up)
        return is_lost

    async def come_back(self, lease: Lease) -> None:
        """Say that nothing of ended attempts is left, so that it takes work again."""
        async with self.unit_of_work.system(because="nodes are no tenant's") as tx:
            await tx.hold(lease)
            await tx.nodes.save((await tx.nodes.get(self.node_id)).returned())

    async def heartbeat(self, lease: Lease, *, is_runtime_up: bool) -> None:
        """Say that it is alive, and whether anything can be run on it."""
        async with self.unit_of_work.system(because="nodes are no tenant's") as tx:
            await tx.hold(lease)
            await tx.nodes.heartbeat(self.node_id, is_runtime_up=is_runtime_up)

    async def open_attempts(self) -> Sequence[AttemptWork]:
        """Return what is to be run on it, or runs."""
        because = "a node runs any tenant's attempts"
        async with self.unit_of_work.reading(because=because) as reading:
            return await reading.attempts.open_on_node(self.node_id)
