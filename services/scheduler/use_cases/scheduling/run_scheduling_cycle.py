"""Give free capacity to those who wait for it."""

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
from services.scheduler.domain.deployments.deployment import Deployment
from services.scheduler.domain.deployments.replica import Replica
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import AttemptId, JobId, ReplicaId
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.scheduling.plan import Head, Placement, plan
from services.scheduler.use_cases.deployments.change_replica import change_replica
from services.scheduler.use_cases.ports import Lease, SystemTransaction, UnitOfWork


class Outcome(StrEnum):
    """What became of a placement."""

    PLACED = "placed"
    MOVED_ON = "moved_on"
    """The head has left the line since the snapshot: it loses its turn, which it needs no more."""
    NO_ROOM = "no_room"
    """The node has less free than in the snapshot: the line waits for the next cycle."""


@dataclass(frozen=True, slots=True)
class CycleReport:
    """What a cycle saw and did."""

    heads: Sequence[Head]
    outcomes: Sequence[tuple[Placement, Outcome]]


@dataclass(frozen=True, slots=True)
class _QueuedReplica:
    """A replica in line, with the deployment that says what it needs."""

    replica: Replica
    deployment: Deployment


@dataclass(frozen=True, slots=True)
class RunSchedulingCycle:
    """Admit as many as fit, in order; only the holder of the scheduling lease may.

    Who could act late: a leader that was paused between snapshot and admission. What refuses it:
    each transaction holds the lease's row, and re-checks heads and nodes under their locks.
    """

    unit_of_work: UnitOfWork
    ids: Ids
    heads_max: int
    batch_max: int
    """Admissions in one transaction: more cost less each, and keep rows locked for longer."""
    node_silence_max: timedelta

    async def __call__(self, lease: Lease) -> CycleReport:
        """Run one cycle; raises Conflict when the lease is over."""
        # 1. Take one snapshot; what is decided below is only as fresh as it is.
        heads, nodes = await self._snapshot()
        # 2. Decide, without touching anything.
        placements = plan(heads, nodes)
        # 3. Apply in order, a batch a transaction; what was not applied waits for the next cycle.
        outcomes: list[tuple[Placement, Outcome]] = []
        for start in range(0, len(placements), self.batch_max):
            batch = placements[start : start + self.batch_max]
            outcomes += await self._apply(lease, batch)
            if outcomes[-1][1] is Outcome.NO_ROOM:
                break
        return CycleReport(heads, outcomes)

    async def _snapshot(self) -> tuple[Sequence[Head], Sequence[Node]]:
        async with self.unit_of_work.system(because="the line spans tenants") as tx:
            alive_since = tx.now - self.node_silence_max
            nodes = await tx.nodes.alive(since=alive_since)
            heads = await tx.line.heads(limit=self.heads_max, alive_since=alive_since)
        return heads, nodes

    async def _apply(
        self, lease: Lease, batch: Sequence[Placement]
    ) -> list[tuple[Placement, Outcome]]:
        outcomes = []
        async with self.unit_of_work.system(because="admission moves any tenant's work") as tx:
            await tx.hold(lease)
            waiting = await self._still_waiting(tx, batch)
            node_ids = sorted({placement.node_id for placement in batch})
            nodes = {node_id: await tx.nodes.get(node_id) for node_id in node_ids}
            for placement in batch:
                node = nodes[placement.node_id]
                owner = waiting.get(placement.head.id)
                if owner is None:
                    outcomes.append((placement, Outcome.MOVED_ON))
                elif placement.head.resources.fits_in(node.free):
                    # Capacity is taken in the transaction of the attempt that owns it.
                    nodes[node.id] = node.booked(placement.head.resources)
                    await self._admit(tx, owner, placement)
                    outcomes.append((placement, Outcome.PLACED))
                else:
                    outcomes.append((placement, Outcome.NO_ROOM))
                    break
            for node in nodes.values():
                await tx.nodes.save(node)
        return outcomes

    async def _still_waiting(
        self, tx: SystemTransaction, batch: Sequence[Placement]
    ) -> Mapping[str, Job | _QueuedReplica]:
        """Lock those that are in line still: before nodes, as everybody does."""
        heads = [placement.head for placement in batch]
        replicas = await tx.replicas.queued(
            [ReplicaId(head.id) for head in heads if head.kind is OwnerKind.REPLICA]
        )
        jobs = await tx.jobs.queued(
            [JobId(head.id) for head in heads if head.kind is OwnerKind.JOB]
        )
        waiting: dict[str, Job | _QueuedReplica] = {job.id: job for job in jobs}
        for replica in replicas:
            deployment = await tx.deployments.get(replica.deployment_id)
            waiting[replica.id] = _QueuedReplica(replica, deployment)
        return waiting

    async def _admit(
        self, tx: SystemTransaction, owner: Job | _QueuedReplica, placement: Placement
    ) -> None:
        attempt_id = AttemptId(self.ids.new("att"))
        if isinstance(owner, Job):
            job, admitted = owner.admitted(attempt_id, placement.node_id, at=tx.now)
            await tx.jobs.save(job)
            tx.emit(admitted)
            whose = Owner(OwnerKind.JOB, job.id, public_id=job.id)
            number, tenant, traceparent = job.attempt_number, job.tenant, job.traceparent
        else:
            replica = owner.replica.placed(attempt_id, placement.node_id)
            await change_replica(tx, replica)
            whose = Owner(OwnerKind.REPLICA, replica.id, public_id=owner.deployment.id)
            number, tenant = replica.attempt_number, replica.tenant
            traceparent = owner.deployment.traceparent
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
