"""Move jobs off nodes that are drained."""

from dataclasses import dataclass

from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import StopCause
from services.scheduler.use_cases.jobs.ask_to_stop import ask_to_stop
from services.scheduler.use_cases.one_by_one import one_by_one
from services.scheduler.use_cases.ports import Lease, UnitOfWork


@dataclass(frozen=True, slots=True)
class DrainNodes:
    """Ask each job on a node that is drained to stop, with its grace; it goes back in line.

    Replicas are moved by `ReconcileDeployments`, which knows when one may go. Who could act late: a
    cycle that chose the node before it was cordoned. What refuses it: it looks at the node again
    under its lock. A pass that read the node before it was uncordoned looks again, too.
    """

    unit_of_work: UnitOfWork
    jobs_per_pass_max: int

    async def __call__(self, lease: Lease) -> int:
        """Run one pass; returns how many jobs were found there."""
        # 1. Find what is placed there.
        async with self.unit_of_work.system(because="nodes run any tenant's jobs") as tx:
            placed = await tx.jobs.placed_on_drained(limit=self.jobs_per_pass_max)
        # 2. Each in a transaction of its own, in which it may have moved on.
        await one_by_one(placed, lambda job_id: self._stop(lease, job_id))
        return len(placed)

    async def _stop(self, lease: Lease, job_id: JobId) -> None:
        async with self.unit_of_work.system(because="a drain stops any tenant's job") as tx:
            await tx.hold(lease)
            job = await tx.jobs.get_any(job_id)
            if not job.is_placed:
                return
            # One of its tasks there is enough: they are admitted together, and so they stop.
            draining = await tx.nodes.draining()
            there = [each for each in await tx.attempts.nodes_of(job_id) if each in draining]
            for node in await tx.nodes.some(there):
                if node.draining_since is not None:
                    reason = f"{node.id} is drained"
                    await ask_to_stop(tx, job, reason=reason, cause=StopCause.DRAINED)
                    return
