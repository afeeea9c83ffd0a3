"""Give free capacity to those who wait for it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import partial

from services.chassis.ids import Ids
from services.chassis.tenancy import TenantId
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
from services.scheduler.domain.scheduling.line import Head
from services.scheduler.domain.scheduling.plan import Decisions, Placement, plan
from services.scheduler.use_cases.deployments.change_replica import change_replica
from services.scheduler.use_cases.ports import Lease, SystemTransaction, Tenants, UnitOfWork
from services.scheduler.use_cases.scheduling.leaders_memory import LeadersMemory, Sight
from services.scheduler.use_cases.scheduling.snapshot import Ends, allowance, snapshot


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

    waiting: Mapping[OwnerKind, int]
    """All in line before it."""
    outcomes: Sequence[tuple[Placement, Outcome]]
    is_cut: bool
    """There is more to do: the next cycle should follow at once."""
    admitted: Sequence[AttemptWork]
    """What runs now, for whoever runs it."""
    is_line_right: bool
    """Else the line in memory was not the table's, which no cycle should ever see; nothing is
    admitted by it, and the next cycle reads it whole."""
    blocked: Head | None = None
    """The first job for which there is no room."""
    are_counts_mended: bool = False
    """How many were told to stand in line was not how many did, and is again."""


@dataclass(frozen=True, slots=True)
class _QueuedReplica:
    """A replica in line, with the deployment that says what it needs."""

    replica: Replica
    deployment: Deployment


_Took = Mapping[tuple[TenantId, str], timedelta]
"""How long the latest of each template took."""


@dataclass(frozen=True, slots=True)
class _Split:
    """What a cycle has split off arrays, and what is left of those."""

    arrays: dict[JobId, Job] = field(default_factory=dict)
    element_ids: set[JobId] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class RunSchedulingCycle:
    """Admit as many as fit, in order; only the holder of the scheduling lease may.

    Who could act late: a leader that was paused while it decided. What refuses it: its transaction
    holds the lease's row, and re-checks heads and nodes under their locks. A line in memory that is
    another leader's past: it is read whole under each new lease (ADR-0034).

    A tenant that may have been missed may take nothing: it may be suspended (ADR-0021).
    """

    unit_of_work: UnitOfWork
    tenants: Tenants
    ids: Ids
    memory: LeadersMemory
    heads_max: int
    """Tasks after which one transaction admits no other head: more cost less each, and stay locked
    for longer. A job of several tasks is admitted whole all the same."""
    node_silence_max: timedelta
    soonest_max: int
    """Attempts that end first, which are looked at before all are."""
    makes_room: bool = False
    """Whether somebody makes room for the first job without any: it is not to be one that waits for
    what nobody can free."""

    async def __call__(self, lease: Lease) -> CycleReport:
        """Run one cycle; raises Conflict when the lease is over."""
        if not self.memory.is_of(lease):
            await self.memory.begin(lease)
        async with self.unit_of_work.system(because="admission moves any tenant's work") as tx:
            await tx.hold(lease)
            # 1. Hear what has changed in the line.
            caught_up = await self.memory.catch_up(tx)
            is_right = caught_up.is_line_right
            waiting = {kind: self.memory.line.count(kind) for kind in OwnerKind}
            # 2. Look at nodes and what runs, keeping nobody from them, and decide.
            decisions = await self._decide(tx) if is_right else Decisions([], None)
            # 3. Apply in order what still holds once it is locked.
            outcomes, admitted = await self._apply(tx, decisions.placements)
        has_placed = any(outcome is Outcome.PLACED for _, outcome in outcomes)
        is_cut = not is_right or (decisions.is_cut and has_placed)
        return CycleReport(
            waiting,
            outcomes,
            is_cut,
            admitted,
            is_right,
            decisions.blocked,
            caught_up.are_counts_mended,
        )

    async def _decide(self, tx: SystemTransaction) -> Decisions:
        line = self.memory.line
        held = await self.memory.look(tx, self.tenants)
        allowed = await allowance(tx, self.tenants, line, held=held)
        # As of before the nodes are looked at: what changes meanwhile is looked at again.
        seen = Sight(
            line.edition,
            allowed,
            held,
            await tx.nodes.fingerprint_at_work(silence_max=self.node_silence_max),
        )
        if (standing := self.memory.decided_in_vain(seen, at=tx.now)) is not None:
            return standing
        look = partial(
            snapshot,
            tx,
            line,
            allowed,
            held=held,
            averages=self.memory.averages.by_tenant,
            heads_max=self.heads_max,
            node_silence_max=self.node_silence_max,
            soonest_max=self.soonest_max,
        )
        decisions = plan(await look(ends=Ends.NONE))
        is_room_made = self.makes_room and decisions.blocked is not None
        if decisions.needs_holdings or is_room_made:
            decisions = plan(await look(ends=Ends.SOONEST))
            if decisions.needs_holdings:
                decisions = plan(await look(ends=Ends.ALL))
        self.memory.note_decided(decisions, seen, at=tx.now)
        return decisions

    async def _apply(
        self, tx: SystemTransaction, placements: Sequence[Placement]
    ) -> tuple[list[tuple[Placement, Outcome]], list[AttemptWork]]:
        outcomes = []
        admitted: list[tuple[Sequence[AttemptWork], Job | None]] = []
        split = _Split()
        # Owners before nodes, as everybody locks them; nodes for no longer than need be.
        waiting = await self._still_waiting(tx, placements)
        node_ids = {node_id for placement in placements for node_id in placement.node_ids}
        took = await self._took(tx, waiting.values())
        nodes = {node.id: node for node in await tx.nodes.some(node_ids)} if node_ids else {}
        for placement in placements:
            head, takes = placement.head, placement.takes
            owner = waiting.get(head.id)
            if owner is None:
                outcomes.append((placement, Outcome.MOVED_ON))
            elif all(nodes[each].has_room_for(takes[each], of=head.tenant) for each in takes):
                # All of its tasks or none: nothing is booked before all have their room.
                nodes |= {each: nodes[each].booked(takes[each], by=head.work) for each in takes}
                if isinstance(owner, Job) and owner.is_array:
                    owner = self._split(tx, owner, waiting, split)
                admitted.append(await self._admit(tx, owner, placement, took))
                outcomes.append((placement, Outcome.PLACED))
            else:
                outcomes.append((placement, Outcome.NO_ROOM))
                break
        # Capacity is taken in the transaction of the attempts that own it.
        works = [work for tasks, _ in admitted for work in tasks]
        jobs = [job for _, job in admitted if job is not None]
        await tx.jobs.admit([job for job in jobs if job.id not in split.element_ids])
        await tx.jobs.add_elements([job for job in jobs if job.id in split.element_ids])
        for array in split.arrays.values():
            await tx.jobs.save(array)
        await tx.attempts.add([work.attempt for work in works])
        await tx.nodes.book(list(nodes.values()))
        return outcomes, works

    async def _took(
        self, tx: SystemTransaction, waiting: Collection[Job | _QueuedReplica]
    ) -> _Took:
        jobs = [each for each in waiting if isinstance(each, Job)]
        return (
            await tx.attempts.took({(job.tenant, job.spec.template) for job in jobs})
            if jobs
            else {}
        )

    async def _still_waiting(
        self, tx: SystemTransaction, placements: Sequence[Placement]
    ) -> dict[str, Job | _QueuedReplica]:
        """Lock those that are in line still: before nodes, as everybody does."""
        heads = [placement.head for placement in placements]
        waiting: dict[str, Job | _QueuedReplica] = {}
        if replica_ids := [ReplicaId(head.id) for head in heads if head.kind is OwnerKind.REPLICA]:
            for replica in await tx.replicas.queued(replica_ids):
                deployment = await tx.deployments.get(replica.deployment_id)
                waiting[replica.id] = _QueuedReplica(replica, deployment)
        if job_ids := {JobId(head.id) for head in heads if head.kind is OwnerKind.JOB}:
            jobs = await tx.jobs.queued(sorted(job_ids))
            stopping = await self._stopping_arrays(tx, jobs)
            # A clock that was put back since the line was told that a pause was over.
            waiting |= {
                job.id: job
                for job in jobs
                if not job.pauses(at=tx.now)
                and (job.element is None or job.element.array_id not in stopping)
            }
        return waiting

    async def _stopping_arrays(
        self, tx: SystemTransaction, jobs: Sequence[Job]
    ) -> Collection[JobId]:
        """Return the arrays of these elements, which are back in line, that are to stop."""
        array_ids = {job.element.array_id for job in jobs if job.element is not None}
        found = await tx.jobs.some(sorted(array_ids)) if array_ids else ()
        return {array.id for array in found if array.stop is not None}

    def _split(
        self,
        tx: SystemTransaction,
        array: Job,
        waiting: dict[str, Job | _QueuedReplica],
        split: _Split,
    ) -> Job:
        """Return an array's next element; the rest of it waits on, where there is any."""
        array, moved, element, queued = array.split(JobId(self.ids.new("job")), at=tx.now)
        tx.emit(queued)
        waiting[array.id] = split.arrays[array.id] = array
        split.element_ids.add(element.id)
        if moved is not None:
            tx.emit(moved)
            del waiting[array.id]
        return element

    async def _admit(
        self,
        tx: SystemTransaction,
        owner: Job | _QueuedReplica,
        placement: Placement,
        took: _Took,
    ) -> tuple[Sequence[AttemptWork], Job | None]:
        """Return the attempts by task, which are to be stored, with their job if it is one's."""
        attempt_ids = [AttemptId(self.ids.new("att")) for _ in placement.node_ids]
        attempt_id = attempt_ids[0]
        job, template, run_expected = None, "", None
        if isinstance(owner, Job):
            template = owner.spec.template
            run_expected = took.get((owner.tenant, template))
            job, admitted = owner.admitted(attempt_id, *placement.node_ids, at=tx.now)
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
        works = []
        for task, node_id in enumerate(placement.node_ids):
            attempt, created = Attempt.created(
                attempt_ids[task],
                tenant,
                whose,
                number=number,
                node_id=node_id,
                resources=placement.head.resources,
                at=tx.now,
                traceparent=traceparent,
                task=task,
                task_count=placement.head.task_count,
                run_max=placement.head.run_max,
                template=template,
                run_expected=run_expected,
            )
            tx.emit(created)
            works.append(AttemptWork(attempt, work, None, is_current=True, placed_for=timedelta(0)))
        return works, job
