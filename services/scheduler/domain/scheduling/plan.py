"""Turns the line and free capacity into placements.

Pure: it reads a snapshot and returns decisions. `use_cases.scheduling` applies them and checks each
one again, since the snapshot may be old by then.

Invariants: placements never ask a node for more than it had free, nor give a tenant more than its
plan lets it take; nobody passes an earlier one of its kind that fits what is free at its turn.
Whose turn it is `line` tells. Replicas and jobs stand in two lines, replicas first: a replica may
wait for ever, since others never end, and must not hold up the jobs.

The first job that does not fit has capacity **reserved** at the instant at which it will, by the
run time limits of what holds it: until then jobs behind it get no room on any node that it could
use but where they end before (backfill, ADR-0033). Who waits for what never ends by itself, such as
a replica, has no such instant, and holds up nobody. Replicas are not passed by replicas.

A node that takes one tenant's work at a time is that tenant's until it is empty; the first who is
placed on an empty one makes it its tenant's (ADR-0032).
"""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice
from typing import Final

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.fleet.node import HeldWork, Node
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.line import Head, Line, Shape
from services.scheduler.domain.scheduling.shares import Shares

SEARCHES_MAX: Final = 400
"""Searches through all nodes in vain that a plan makes, some 0.4 ms each where there are 500. Each
tenant in line has its part of them, whatever the others use up."""
SEARCHES_EACH_MIN: Final = 10
"""Each tenant's, however many tenants there are."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What an open attempt holds of its node, and for how long at most."""

    node_id: NodeId
    tenant: TenantId
    resources: Resources
    ends_in: timedelta | None
    """By its run time limit, counted from its placement, so that a slow start moves no instant that
    others wait for; None: it never ends by itself."""

    @property
    def work(self) -> HeldWork:
        """Return whose it is; jobs alone end by themselves."""
        kind = OwnerKind.REPLICA if self.ends_in is None else OwnerKind.JOB
        return HeldWork(self.tenant, kind)


@dataclass(frozen=True, slots=True)
class Placement:
    """That a head may run on a node."""

    head: Head
    node_id: NodeId

    @property
    def holding(self) -> Holding:
        """Return what it holds once it is carried out."""
        head = self.head
        return Holding(self.node_id, head.tenant, head.resources, head.run_max)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is decided on: who waits, for what, and what is in the way."""

    line: Line
    nodes: Sequence[Node]
    shares: Shares
    left: Mapping[TenantId, Resources]
    """What tenants may take; those that are missing may take whatever there is."""
    heads_max: int
    """Heads that are placed; who finds no room is passed over uncounted."""
    paused: Collection[tuple[TenantId, str]] = frozenset()
    """Queues of which nothing is placed."""
    holdings: Sequence[Holding] | None = ()
    """Those on the nodes; None: nobody has looked yet, and a plan that needs them says so."""

    def with_placed(self, placements: Sequence[Placement]) -> "Snapshot":
        """Return what is there once these are carried out."""
        nodes = {node.id: node for node in self.nodes}
        left = dict(self.left)
        held = dict(self.shares.held)
        for placement in placements:
            head, node = placement.head, nodes[placement.node_id]
            nodes[node.id] = node.booked(head.resources, by=head.work)
            held[head.tenant] = held.get(head.tenant, Resources()) + head.resources
            if head.tenant in left:
                left[head.tenant] -= head.resources
        return replace(
            self,
            line=self.line.without(placement.head.id for placement in placements),
            nodes=list(nodes.values()),
            shares=replace(self.shares, held=held),
            left=left,
            holdings=[*(self.holdings or ()), *(placement.holding for placement in placements)],
        )


@dataclass(frozen=True, slots=True)
class Reservation:
    """When a head that does not fit now will, if all that holds the room keeps it to its limit."""

    head: Head
    node_id: NodeId
    starts_in: timedelta

    def is_unharmed_by(self, other: Head) -> bool:
        """Tell whether a later head ends in time wherever it is placed."""
        # Not at that very instant: two of one limit would pass each other while neither has begun.
        return other.run_max is not None and other.run_max < self.starts_in

    def lets(self, other: Head, node: Node) -> bool:
        """Tell whether a later head may be placed on a node: what ends in time is in nobody's way.

        On all nodes that the first could use, not only on the reserved one: it may fit elsewhere
        sooner, since most end before their limits.
        """
        return self.is_unharmed_by(other) or not _could_hold(node, self.head)


@dataclass(frozen=True, slots=True)
class Decisions:
    """What may run where, in order; and for whom room is kept."""

    placements: Sequence[Placement]
    reservation: Reservation | None
    refused: Mapping[Shape, int] = field(default_factory=dict)
    """What was placed nowhere, and how many placements came before its turn."""
    is_cut: bool = False
    """There are more who may take what is left than were given their turns."""
    needs_holdings: bool = False
    """Who is behind one that does not fit was not looked at, since nobody knows what ends when."""


def plan(seen: Snapshot) -> Decisions:
    """Place heads in turn, each on the node that it leaves fullest."""
    room = _Room(seen)
    turns = seen.line.turns(lambda tenant: seen.shares.of(tenant, more=room.given[tenant]))
    placements: list[Placement] = []
    refused: dict[Shape, int] = {}
    reservation: Reservation | None = None
    are_replicas_blocked = is_somebody_blocked = needs_holdings = is_cut = False
    for head in turns:
        is_job = head.kind is OwnerKind.JOB
        is_let = room.lets(head) and (is_job or not are_replicas_blocked)
        if is_let and (is_somebody_blocked or len(placements) == seen.heads_max):
            needs_holdings, is_cut = is_somebody_blocked, not is_somebody_blocked
            break
        kept = reservation if is_job else None
        node_id = room.tightest(head, kept) if is_let else None
        if node_id is not None:
            placements.append(room.place(head, node_id))
            continue
        refused[head.shape] = len(placements)
        turns.refuse()
        if room.is_searched_enough_for(head.tenant):
            turns.leave()
        if not is_let or (is_job and reservation is not None) or not room.could_hold(head):
            continue  # nothing that ends makes room for it, or another's turn comes first
        if not is_job:
            are_replicas_blocked = True
        elif seen.holdings is None:
            is_somebody_blocked = True
        else:
            reservation = room.reserved(head)
    return Decisions(placements, reservation, refused, is_cut, needs_holdings)


class _Room:
    """What is left of nodes and plans while a plan is made: it only ever gets less.

    So who found no room finds none later, nor do others that ask for the same. What a tenant asks
    for in vain is searched through all nodes a bounded number of times.
    """

    def __init__(self, seen: Snapshot) -> None:
        self._nodes = {node.id: node for node in seen.nodes}
        self.given: defaultdict[TenantId, Resources] = defaultdict(Resources)
        self._free = {node.id: node.free for node in seen.nodes}  # reckoned once a booking
        self._fullest_first = sorted(
            (*_by_fullness(free), node_id) for node_id, free in self._free.items()
        )
        self._left = dict(seen.left)
        self._paused = seen.paused
        self._held_by_node: defaultdict[NodeId, list[Holding]] = defaultdict(list)
        for holding in seen.holdings or ():
            self._held_by_node[holding.node_id].append(holding)
        self._most_free = Resources.most(self._free.values())
        self._in_vain: set[tuple[TenantId, Resources, bool]] = set()
        self._never: set[tuple[TenantId, Resources]] = set()
        self._searches: Counter[TenantId] = Counter()
        tenant_count = len(seen.line.tenants())
        self._searches_max = max(SEARCHES_EACH_MIN, SEARCHES_MAX // max(1, tenant_count))

    def lets(self, head: Head) -> bool:
        """Tell whether its own tenant's pause or plan keeps nobody like it back."""
        left = self._left.get(head.tenant)
        is_paused = (head.tenant, head.shape.queue) in self._paused
        return not is_paused and (left is None or head.resources.fits_in(left))

    def could_hold(self, head: Head) -> bool:
        """Tell whether some node could hold it once the jobs of now are over."""
        asked = (head.tenant, head.resources)
        if asked in self._never:
            return False
        self._searches[head.tenant] += 1
        could = any(_could_hold(node, head) for node in self._nodes.values())
        if not could:
            self._never.add(asked)
        return could

    def reserved(self, head: Head) -> Reservation | None:
        """Return where a head will fit first; None where nothing that ends makes room for it."""
        self._searches[head.tenant] += 1
        found = [
            (starts_in, node.id)
            for node in self._nodes.values()
            if (starts_in := _fits_in(node, head, self._held_by_node[node.id])) is not None
        ]
        if not found:
            self._never.add((head.tenant, head.resources))
            return None
        starts_in, node_id = min(found)
        return Reservation(head, node_id, starts_in)

    def is_searched_enough_for(self, tenant: TenantId) -> bool:
        """Tell whether a tenant has asked in vain for as many different things as it may."""
        return self._searches[tenant] >= self._searches_max

    def tightest(self, head: Head, kept: Reservation | None) -> NodeId | None:
        """Return the node that it leaves fullest, beside what is kept for an earlier one.

        So whole nodes stay free for large heads; equal ones are told apart by id.
        """
        asked = (head.tenant, head.resources)
        goes_anywhere = kept is None or kept.is_unharmed_by(head)
        in_vain = {(*asked, True), (*asked, goes_anywhere)} & self._in_vain
        if in_vain or not head.resources.fits_in(self._most_free):
            return None
        # Those that are fuller than what it needs are no more than passed over in the order.
        first = bisect_left(self._fullest_first, (*_by_fullness(head.resources), ""))
        for *_, node_id in islice(self._fullest_first, first, None):
            node = self._nodes[node_id]
            if (
                head.resources.fits_in(self._free[node_id])
                and node.takes(head.tenant)
                and (kept is None or kept.lets(head, node))
            ):
                return node_id
        self._in_vain.add((*asked, goes_anywhere))
        self._searches[head.tenant] += 1
        self._most_free = Resources.most(self._free.values())
        return None

    def place(self, head: Head, node_id: NodeId) -> Placement:
        """Take it from the node, and from what its tenant may have."""
        node = self._nodes[node_id] = self._nodes[node_id].booked(head.resources, by=head.work)
        fullness = (*_by_fullness(self._free[node_id]), node_id)
        del self._fullest_first[bisect_left(self._fullest_first, fullness)]
        free = self._free[node_id] = node.free
        insort(self._fullest_first, (*_by_fullness(free), node_id))
        self.given[head.tenant] += head.resources
        if (left := self._left.get(head.tenant)) is not None:
            self._left[head.tenant] = left - head.resources
        placement = Placement(head, node_id)
        self._held_by_node[node_id].append(placement.holding)
        return placement


def _by_fullness(free: Resources) -> tuple[int, int, int]:
    """Return what orders nodes, the fullest first: by GPUs, then cores, then memory."""
    return (free.gpu_count, free.cpu_millicores, free.memory_bytes)


def _could_hold(node: Node, head: Head) -> bool:
    """Tell whether a head fits a node once the jobs of now are over."""
    return head.resources.fits_in(node.capacity) and node.will_take(head.tenant)


def _fits_in(node: Node, head: Head, theirs: Sequence[Holding]) -> timedelta | None:
    """Return after how long a node has room for a head, if everybody keeps theirs to the last."""
    if not _could_hold(node, head):
        return None
    wait = timedelta(0)
    if not node.allows_mixed_tenants:
        others = [each.ends_in for each in theirs if each.tenant != head.tenant]
        if None in others:
            return None
        wait = max((each for each in others if each is not None), default=wait)
    used = node.used
    ends = sorted(
        (each.ends_in, place) for place, each in enumerate(theirs) if each.ends_in is not None
    )
    for ends_in, place in ends:
        if head.resources.fits_in(node.capacity.less(used)):
            break
        used = used.less(theirs[place].resources)
        wait = max(wait, ends_in)
    return wait if head.resources.fits_in(node.capacity.less(used)) else None
