"""Turns the heads of the line and free capacity into placements.

Pure: it reads a snapshot and returns decisions. `use_cases.scheduling` applies them and checks each
one again, since the snapshot may be old by then.

Invariants: placements never ask a node for more than it had free, nor give a tenant more than its
plan lets it take; within a kind nobody passes an earlier one that could be placed (no backfill).
Replicas and jobs stand in two lines, replicas first: a replica may wait for ever, since others
never end, and must not hold up the jobs.

A node that takes one tenant's work at a time is that tenant's until it is empty; the first who is
placed on an empty one makes it its tenant's. Who is kept out by another tenant's jobs alone holds
the line, as any head that does not fit: nobody passes it, so the node empties, and is its tenant's
in turn. Who is kept out of every node by another tenant's replica, which never ends by itself,
does not hold up the others (ADR-0032).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.fleet.node import HeldWork, Node
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources


@dataclass(frozen=True, slots=True)
class Head:
    """One who waits for capacity: a job or a replica."""

    kind: OwnerKind
    id: str
    tenant: TenantId
    priority: int
    queue_seq: int
    resources: Resources

    @property
    def order(self) -> tuple[bool, int, int]:
        """Return the sort key: replicas, then larger priority, then who came first."""
        return (self.kind is OwnerKind.JOB, -self.priority, self.queue_seq)

    @property
    def work(self) -> HeldWork:
        """Return what a node holds once this is placed on it."""
        return HeldWork(self.tenant, self.kind)


@dataclass(frozen=True, slots=True)
class Placement:
    """That a head may run on a node."""

    head: Head
    node_id: NodeId


def plan(
    heads: Iterable[Head], nodes: Sequence[Node], left: Mapping[TenantId, Resources]
) -> list[Placement]:
    """Place heads in strict order, each on the node that it leaves fullest.

    `left` is what tenants may take; those that are missing may take whatever there is.
    """
    there = {node.id: node for node in nodes}
    free = {node.id: node.free for node in nodes}
    left = dict(left)
    blocked: set[OwnerKind] = set()
    placements = []
    for head in sorted(heads, key=lambda head: head.order):
        if head.kind in blocked:
            continue
        theirs = left.get(head.tenant)
        if theirs is not None and not head.resources.fits_in(theirs):
            continue  # it waits for its own tenant's work to end: others may pass it
        node_id = _tightest(
            head.resources, {each: free[each] for each in free if there[each].takes(head.tenant)}
        )
        if node_id is not None:
            there[node_id] = there[node_id].booked(head.resources, by=head.work)
            free[node_id] = there[node_id].free
            if theirs is not None:
                left[head.tenant] = theirs - head.resources
            placements.append(Placement(head, node_id))
        elif any(
            head.resources.fits_in(node.capacity) and node.will_take(head.tenant)
            for node in there.values()
        ):
            blocked.add(head.kind)  # it will fit once something ends: nobody may pass it
    return placements


def _tightest(resources: Resources, free: dict[NodeId, Resources]) -> NodeId | None:
    """Best fit keeps whole nodes free for large heads; equal ones are told apart by id."""
    fitting = [
        (left.gpu_count, left.cpu_millicores, left.memory_bytes, node_id)
        for node_id, left in free.items()
        if resources.fits_in(left)
    ]
    return min(fitting)[-1] if fitting else None
