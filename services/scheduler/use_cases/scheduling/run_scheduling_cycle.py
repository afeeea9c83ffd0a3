"""Give free capacity to those who wait for it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from services.chassis.ids import Ids
from services.scheduler.domain.attempts.attempt import (
    Attempt,
    Owner,
    OwnerKind,
)
from services.scheduler.domain.attempts.work import AttemptWork, JobWork, ReplicaWork
from services.scheduler.domain.deployments.deployment import Deployment
from services.scheduler.domain.deployments.replica import Replica
from services.scheduler.domain.identities import AttemptId, JobId, ReplicaId
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.scheduling.plan import Head, Placement, plan
from services.scheduler.use_cases.deployments.change_replica import change_replica
from services.scheduler.use_cases.ports import Lease, SystemTransaction, Tenants, UnitOfWork
from services.scheduler.use_cases.scheduling.snapshot import snapshot


class Outcome(StrEnum):
    """What became of a placement."""

    PLACED = "placed"
    MOVED_ON = "moved_on"
    """The head has left the line since it was read: it loses its turn, which it needs no more."""
    NO_ROOM = "no_room"
    """The node takes less, or others', than when it was read: the line waits for the next cycle."""


@dataclass(frozen=True, slots=True)
class CycleReport:
    """What a cycle saw and did."""

    heads: Sequence[Head]
    outcomes: Sequence[tuple[Placement, Outcome]]
    is_cut: bool
    """There may be more heads than it took: the next cycle should follow at once."""
    admitted: Sequence[AttemptWork]
    """What runs now, for whoever runs it."""


@dataclass(frozen=True, slots=True)
class _QueuedReplica:
    """A replica in line, with the deployment that says what it needs."""

    replica: Replica
    deployment: Deployment


@dataclass(frozen=True, slots=True)
class RunSchedulingCycle:
    """Admit as many as fit, in order; only the holder of the scheduling lease may.

    Who could act late: a leader that was paused while it decided. What refuses it: its transaction
    holds the lease's row, and re-checks heads and nodes under their locks.

    A tenant that may have been missed may take nothing: it may be suspended (ADR-0021).
    """

    unit_of_work: UnitOfWork
    tenants: Tenants
    ids: Ids
    heads_max: int
    """Heads of each kind, admitted in one transaction: more cost less each, and stay locked for
    longer."""
    node_silence_max: timedelta

    async def __call__(self, lease: Lease) -> CycleReport:
        """Run one cycle; raises Conflict when the lease is over."""
        async with self.unit_of_work.system(because="admission moves any tenant's work") as tx:
            await tx.hold(lease)
            # 1. Read the line and the nodes, without keeping anybody from them.
            seen = await snapshot(
                tx,
                self.tenants,
                at=tx.now,
                heads_max=self.heads_max,
                node_silence_max=self.node_silence_max,
            )
            # 2. Decide, without touching anything.
            decisions = plan(seen)
            # 3. Apply in order what still holds once it is locked.
            outcomes, admitted = await self._apply(tx, decisions.placements)
        is_full = self.heads_max in Counter(head.kind for head in seen.heads).values()
        has_placed = any(outcome is Outcome.PLACED for _, outcome in outcomes)
        return CycleReport(seen.heads, outcomes, is_cut=is_full and has_placed, admitted=admitted)

    async def _apply(
        self, tx: SystemTransaction, placements: Sequence[Placement]
    ) -> tuple[list[tuple[Placement, Outcome]], list[AttemptWork]]:
        outcomes = []
        admitted = []
        waiting = await self._still_waiting(tx, placements)
        node_ids = sorted({placement.node_id for placement in placements})
        nodes = {node_id: await tx.nodes.get(node_id) for node_id in node_ids}
        for placement in placements:
            node = nodes[placement.node_id]
            owner = waiting.get(placement.head.id)
            if owner is None:
                outcomes.append((placement, Outcome.MOVED_ON))
            elif placement.head.resources.fits_in(node.free) and node.takes(placement.head.tenant):
                # Capacity is taken in the transaction of the attempt that owns it.
                nodes[node.id] = node.booked(placement.head.resources, by=placement.head.work)
                admitted.append(await self._admit(tx, owner, placement))
                outcomes.append((placement, Outcome.PLACED))
            else:
                outcomes.append((placement, Outcome.NO_ROOM))
                break
        for node in nodes.values():
            await tx.nodes.save(node)
        return outcomes, admitted

    async def _still_waiting(
        self, tx: SystemTransaction, placements: Sequence[Placement]
    ) -> Mapping[str, Job | _QueuedReplica]:
        """Lock those that are in line still: before nodes, as everybody does."""
        heads = [placement.head for placement in placements]
        waiting: dict[str, Job | _QueuedReplica] = {}
        if replica_ids := [ReplicaId(head.id) for head in heads if head.kind is OwnerKind.REPLICA]:
            for replica in await tx.replicas.queued(replica_ids):
                deployment = await tx.deployments.get(replica.deployment_id)
                waiting[replica.id] = _QueuedReplica(replica, deployment)
        if job_ids := [JobId(head.id) for head in heads if head.kind is OwnerKind.JOB]:
            waiting |= {job.id: job for job in await tx.jobs.queued(job_ids)}
        return waiting

    async def _admit(
        self, tx: SystemTransaction, owner: Job | _QueuedReplica, placement: Placement
    ) -> AttemptWork:
        attempt_id = AttemptId(self.ids.new("att"))
        if isinstance(owner, Job):
            job, admitted = owner.admitted(attempt_id, placement.node_id, at=tx.now)
            await tx.jobs.save(job)
            tx.emit(admitted)
            whose = Owner(OwnerKind.JOB, job.id, public_id=job.id)
            number, tenant, traceparent = job.attempt_number, job.tenant, job.traceparent
            work: JobWork | ReplicaWork = JobWork.of(job)
        else:
            replica = owner.replica.placed(attempt_id, placement.node_id)
            await change_replica(tx, replica)
            whose = Owner(OwnerKind.REPLICA, replica.id, public_id=owner.deployment.id)
            number, tenant = replica.attempt_number, replica.tenant
            traceparent = owner.deployment.traceparent
            work = ReplicaWork.of(replica, owner.deployment)
        attempt, created = Attempt.created(
            attempt_id,
            tenant,
            whose,
            number=number,
            node_id=placement.node_id,
            resources=placement.head.resources,
            at=tx.now,
            traceparent=traceparent,
        )
        await tx.attempts.add(attempt)
        tx.emit(created)
        return AttemptWork(attempt, work, stop=None, is_current=True, placed_for=timedelta(0))
