"""Give free capacity to those who wait for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from services.chassis.ids import Ids
from services.scheduler.domain.attempts.attempt import (
    Attempt,
    AttemptTransitioned,
    Owner,
    OwnerKind,
)
from services.scheduler.domain.deployments.replica import ReplicaState
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import AttemptId, JobId, NodeId, ReplicaId
from services.scheduler.domain.jobs.job import JobState
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
class RunSchedulingCycle:
    """Admit as many as fit, in order; only the holder of the scheduling lease may.

    Who could act late: a leader that was paused between snapshot and admission. What refuses it:
    each admission holds the lease's row, and re-checks head and node under their locks.
    """

    unit_of_work: UnitOfWork
    ids: Ids
    heads_max: int
    node_silence_max: timedelta

    async def __call__(self, lease: Lease) -> CycleReport:
        """Run one cycle; raises Conflict when the lease is over."""
        # 1. Take one snapshot; what is decided below is only as fresh as it is.
        heads, nodes = await self._snapshot()
        # 2. Decide, without touching anything.
        placements = plan(heads, nodes)
        # 3. Apply in order, each in a transaction of its own.
        outcomes = []
        for placement in placements:
            outcome = await self._apply(lease, placement)
            outcomes.append((placement, outcome))
            if outcome is Outcome.NO_ROOM:
                break
        return CycleReport(heads, outcomes)

    async def _snapshot(self) -> tuple[Sequence[Head], Sequence[Node]]:
        async with self.unit_of_work.system(because="the line spans tenants") as tx:
            nodes = await tx.nodes.alive(since=tx.now - self.node_silence_max)
            heads = await tx.line.heads(limit=self.heads_max)
        return heads, nodes

    async def _apply(self, lease: Lease, placement: Placement) -> Outcome:
        head, node_id = placement.head, placement.node_id
        async with self.unit_of_work.system(because="admission moves any tenant's work") as tx:
            await tx.hold(lease)
            match head.kind:
                case OwnerKind.JOB:
                    return await self._place_job(tx, JobId(head.id), node_id)
                case OwnerKind.REPLICA:
                    return await self._place_replica(tx, ReplicaId(head.id), node_id)

    async def _place_job(self, tx: SystemTransaction, job_id: JobId, node_id: NodeId) -> Outcome:
        job = await tx.jobs.get_any(job_id)
        if job.state is not JobState.QUEUED:
            return Outcome.MOVED_ON
        node = await tx.nodes.get(node_id)
        if not job.spec.resources.fits_in(node.free):
            return Outcome.NO_ROOM
        job, admitted = job.admitted(self._attempt_id(), node_id, at=tx.now)
        assert job.attempt_id is not None
        attempt, created = Attempt.created(
            job.attempt_id,
            job.tenant,
            Owner(OwnerKind.JOB, job.id, public_id=job.id),
            number=job.attempt_number,
            node_id=node_id,
            resources=job.spec.resources,
            at=tx.now,
            traceparent=job.traceparent,
        )
        await tx.jobs.save(job)
        tx.emit(admitted)
        return await self._book(tx, node, attempt, created)

    async def _place_replica(
        self, tx: SystemTransaction, replica_id: ReplicaId, node_id: NodeId
    ) -> Outcome:
        replica = await tx.replicas.get(replica_id)
        if replica.state is not ReplicaState.QUEUED:
            return Outcome.MOVED_ON
        deployment = await tx.deployments.get(replica.deployment_id)
        node = await tx.nodes.get(node_id)
        if not deployment.spec.resources.fits_in(node.free):
            return Outcome.NO_ROOM
        attempt_id = self._attempt_id()
        replica = replica.placed(attempt_id, node_id)
        attempt, created = Attempt.created(
            attempt_id,
            replica.tenant,
            Owner(OwnerKind.REPLICA, replica.id, public_id=replica.deployment_id),
            number=replica.attempt_number,
            node_id=node_id,
            resources=deployment.spec.resources,
            at=tx.now,
            traceparent=deployment.traceparent,
        )
        await change_replica(tx, replica)
        return await self._book(tx, node, attempt, created)

    async def _book(
        self, tx: SystemTransaction, node: Node, attempt: Attempt, created: AttemptTransitioned
    ) -> Outcome:
        """Take the capacity with the attempt that owns it."""
        await tx.attempts.add(attempt)
        await tx.nodes.save(node.booked(attempt.resources))
        tx.emit(created)
        return Outcome.PLACED

    def _attempt_id(self) -> AttemptId:
        return AttemptId(self.ids.new("att"))
