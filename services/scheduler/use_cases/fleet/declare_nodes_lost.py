"""Give up nodes whose runner is gone, and end what they were to run."""

from dataclasses import dataclass

from loguru import logger

from services.chassis.errors import Conflict
from services.scheduler.domain.fleet.loss import Looks, UnheldNode
from services.scheduler.domain.fleet.node import lease_name
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.use_cases.attempts.record_attempt import RecordAttempt
from services.scheduler.use_cases.one_by_one import one_by_one
from services.scheduler.use_cases.ports import Lease, UnitOfWork


@dataclass(frozen=True, slots=True)
class DeclareNodesLost:
    """Mark each node that nobody has held for too long, and end its open attempts as LOST.

    The leader takes the node's lease over for that, so it acts as the node's runner would. Who
    could act late: the node's runner, and this leader once the runner is back. What refuses them:
    each transaction holds the node's lease, which only one of the two has (ADR-0030).
    """

    unit_of_work: UnitOfWork
    record: RecordAttempt
    looks: Looks
    nodes_per_pass_max: int

    async def __call__(self, lease: Lease) -> int:
        """Run one pass; return how many nodes were given up."""
        # 1. Look which nodes nobody holds, and which of them for too long.
        async with self.unit_of_work.system(because="nodes are no tenant's") as tx:
            unheld = await tx.nodes.unheld(limit=self.nodes_per_pass_max)
        # 2. Each on its own: a runner that is back meanwhile keeps its node.
        lost = self.looks.looked(unheld)
        return sum(await one_by_one(lost, lambda node: self._give_up(lease, node)))

    async def _give_up(self, lease: Lease, unheld: UnheldNode) -> bool:
        """Mark it, then end one attempt after another; tell whether it was marked now."""
        because = "a lost node ran any tenant's attempts"
        async with self.unit_of_work.system(because=because) as tx:
            await tx.hold(lease)
            node_lease = await tx.seize(
                lease_name(unheld.node_id), holder=lease.holder, unheld_for=unheld.unheld_for
            )
            if node_lease is None:
                return False
            node = await tx.nodes.get(unheld.node_id)
            await tx.nodes.save(node.lost(at=tx.now))
        if node.lost_at is None:
            unheld_for_s = unheld.unheld_for.total_seconds()
            logger.warning("node lost", node_id=node.id, unheld_for_s=unheld_for_s)
        async with self.unit_of_work.reading(because=because) as reading:
            works = await reading.attempts.open_on_node(node.id)
        failure = JobFailure(FailureReason.LOST, f"its node {node.id} is lost")
        try:
            await one_by_one(works, lambda work: self.record.lost(node_lease, work, failure))
        except Conflict:
            logger.info("lost node back before its attempts were ended", node_id=node.id)
        return node.lost_at is None
