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

A job of several tasks gets a node for each of them, or nothing (ADR-0037). Its tasks are alike, so
it fits where the counts that nodes hold of them add up to all of them; it takes as few nodes as it
can. Its reservation is the instant at which they will add up.
"""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import accumulate, islice
from typing import Final, NamedTuple

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
SEARCHES_EACH_MIN: Final = 1
"""Each tenant's, where there are more tenants than that."""


class Holding(NamedTuple):
    """What an open attempt holds of its node, and for how long at most.

    A tuple: thousands are made at once, each in a third of a dataclass's time.
    """

    node_id: NodeId
    tenant: TenantId
    resources: Resources
    ends_in: timedelta | None
    """By its run time limit, counted from its placement, so that a slow start moves no instant that
    others wait for; None: it never ends by itself."""
    expected_in: timedelta | None = None
    """By how long others of its template took; None: nobody knows. No cycle goes by it."""

    @property
    def work(self) -> HeldWork:
        """Return whose it is; jobs alone end by themselves."""
        kind = OwnerKind.REPLICA if self.ends_in is None else OwnerKind.JOB
        return HeldWork(self.tenant, kind)


@dataclass(frozen=True, slots=True)
class Placement:
    """That a head may run, each of its tasks on a node."""

    head: Head
    node_ids: tuple[NodeId, ...]
    """By task; several may share a node."""

    @property
    def node_id(self) -> NodeId:
        """Return the first task's."""
        return self.node_ids[0]

    @property
    def takes(self) -> Mapping[NodeId, Resources]:
        """Return what it takes of each node."""
        if len(self.node_ids) == 1:
            return {self.node_id: self.head.resources}
        counts = Counter(self.node_ids)
        return {node_id: self.head.resources * count for node_id, count in counts.items()}

    @property
    def holdings(self) -> Sequence[Holding]:
        """Return what it holds once it is carried out, task by task."""
        head = self.head
        return [
            Holding(node_id, head.tenant, head.resources, head.run_max) for node_id in self.node_ids
        ]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is decided on: who waits, for what, and what is in the way."""

    line: Line
    nodes: Sequence[Node]
    shares: Shares
    left: Mapping[TenantId, Resources]
    """What tenants may take; those that are missing may take whatever there is."""
    heads_max: int
    """After so many tasks nobody else is placed; who finds no room is passed over uncounted."""
    paused: Collection[tuple[TenantId, str]] = frozenset()
    """Queues of which nothing is placed."""
    holdings: Sequence[Holding] | None = ()
    """Those on the nodes; None: nobody has looked yet, and a plan that needs them says so."""
    ends_known_to: timedelta | None = None
    """Of what ends later, or never, there is more than was looked at; None: there is not. A plan
    that needs the rest says so."""

    def with_placed(self, placements: Sequence[Placement]) -> "Snapshot":
        """Return what is there once these are carried out."""
        if not placements:
            return self
        nodes = {node.id: node for node in self.nodes}
        left = dict(self.left)
        held = dict(self.shares.held)
        for placement in placements:
            head = placement.head
            for node_id, taken in placement.takes.items():
                nodes[node_id] = nodes[node_id].booked(taken, by=head.work)
            held[head.tenant] = held.get(head.tenant, Resources()) + head.total
            if head.tenant in left:
                left[head.tenant] -= head.total
        return replace(
            self,
            line=self.line.without(placement.head.id for placement in placements),
            nodes=list(nodes.values()),
            shares=replace(self.shares, held=held),
            left=left,
            holdings=[
                *(self.holdings or ()),
                *(held for placement in placements for held in placement.holdings),
            ],
        )


@dataclass(frozen=True, slots=True)
class Reservation:
    """When a head that does not fit now will, if all that holds the room keeps it to its limit."""

    head: Head
    node_id: NodeId
    """Where that is; of several tasks, the node that completes the room for them."""
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
    """Behind one that does not fit somebody would, and nobody knows what ends when; or not of
    enough to tell when there is room."""
    blocked: Head | None = None
    """The first job that does not fit: room is kept for it, or would be if somebody were behind.
    Where nobody knows what ends when, it may wait for what never does."""


def plan(seen: Snapshot) -> Decisions:
    """Place heads in turn, each on the node that it leaves fullest, or with all its tasks."""
    room = _Room(seen)
    turns = seen.line.turns(lambda tenant: seen.shares.of(tenant, more=room.given[tenant]))
    placements: list[Placement] = []
    task_count = 0
    refused: dict[Shape, int] = {}
    reservation: Reservation | None = None
    blocked: Head | None = None
    are_replicas_blocked = is_somebody_blocked = needs_holdings = is_cut = False
    for head in turns:
        is_job = head.kind is OwnerKind.JOB
        is_let = room.lets(head) and (is_job or not are_replicas_blocked)
        if is_let and task_count >= seen.heads_max:
            is_cut = True
            break
        kept = reservation if is_job else None
        node_ids = room.found_for(head, kept) if is_let else None
        if node_ids is not None and is_somebody_blocked:
            needs_holdings = True
            break
        if node_ids is not None:
            placements.append(room.place(head, node_ids))
            task_count += head.task_count
            continue
        refused[head.shape] = len(placements)
        turns.refuse()
        if room.is_searched_enough_for(head.tenant):
            turns.leave()
        is_behind = is_job and (reservation is not None or is_somebody_blocked)
        if not is_let or is_behind or not room.could_hold(head):
            continue  # nothing that ends makes room for it, or another's turn comes first
        if not is_job:
            are_replicas_blocked = True
        elif seen.holdings is None:
            is_somebody_blocked, blocked = True, head
        else:
            reservation = room.reserved(head)
            needs_holdings = reservation is None and seen.ends_known_to is not None
            blocked = head if reservation is not None or needs_holdings else None
            if needs_holdings:
                break
    return Decisions(placements, reservation, refused, is_cut, needs_holdings, blocked)


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
        self._ends_known_to = seen.ends_known_to
        self._most_free = Resources.most(self._free.values())
        self._in_vain: set[tuple[TenantId, Resources, int, bool]] = set()
        self._never: set[tuple[TenantId, Resources, int]] = set()
        self._searches: Counter[TenantId] = Counter()
        tenant_count = len(seen.line.tenants())
        self._searches_max = max(SEARCHES_EACH_MIN, SEARCHES_MAX // max(1, tenant_count))

    def lets(self, head: Head) -> bool:
        """Tell whether its own tenant's pause or plan keeps nobody like it back."""
        left = self._left.get(head.tenant)
        is_paused = (head.tenant, head.shape.queue) in self._paused
        return not is_paused and (left is None or head.total.fits_in(left))

    def could_hold(self, head: Head) -> bool:
        """Tell whether the nodes could hold it once the jobs of now are over."""
        asked = (head.tenant, head.resources, head.task_count)
        if asked in self._never:
            return False
        self._searches[head.tenant] += 1
        most = head.task_count
        counts = (
            head.resources.count_in(node.capacity, most=most)
            for node in self._nodes.values()
            if _could_hold(node, head)
        )
        could = any(count >= most for count in accumulate(counts))
        if not could:
            self._never.add(asked)
        return could

    def reserved(self, head: Head) -> Reservation | None:
        """Return where a head will fit first; None where nothing that ends makes room for it.

        Nothing of what is known: unless that is all, something else may.
        """
        self._searches[head.tenant] += 1
        # By one task where there are no others: the first instant at which some node has room.
        found: list[tuple[timedelta, NodeId, int]] = []
        within = self._ends_known_to
        if within is not None and any(
            _may_hide_others(node, head) for node in self._nodes.values()
        ):
            return None
        for node in self._nodes.values():
            found += _fits_from(node, head, self._held_by_node[node.id], within=within)
            if head.task_count == 1 and found:
                within, *_ = found[-1]  # another node matters only if it has room as early
        count = 0
        for starts_in, node_id, more in sorted(found):
            count += more
            if count >= head.task_count:
                return Reservation(head, node_id, starts_in)
        if self._ends_known_to is None:
            self._never.add((head.tenant, head.resources, head.task_count))
        return None

    def is_searched_enough_for(self, tenant: TenantId) -> bool:
        """Tell whether a tenant has asked in vain for as many different things as it may."""
        return self._searches[tenant] >= self._searches_max

    def found_for(self, head: Head, kept: Reservation | None) -> tuple[NodeId, ...] | None:
        """Return a node for each task, beside what is kept for an earlier one; None: no room.

        One task gets the node that it leaves fullest, so whole nodes stay free for large heads;
        equal ones are told apart by id. Of several as many as can share a node, so that they are
        near each other.
        """
        asked = (head.tenant, head.resources, head.task_count)
        goes_anywhere = kept is None or kept.is_unharmed_by(head)
        in_vain = {(*asked, True), (*asked, goes_anywhere)} & self._in_vain
        if in_vain or not head.resources.fits_in(self._most_free):
            return None
        # Those that are fuller than what it needs are no more than passed over in the order.
        first = bisect_left(self._fullest_first, (*_by_fullness(head.resources), ""))
        fitting = (
            node_id
            for *_, node_id in islice(self._fullest_first, first, None)
            if head.resources.fits_in(self._free[node_id])
            and self._nodes[node_id].takes(head.tenant)
            and (kept is None or kept.lets(head, self._nodes[node_id]))
        )
        if head.task_count > 1:
            found = self._shared_out(head, list(fitting))
        else:
            found = tuple(islice(fitting, 1))
        if found:
            return found
        self._in_vain.add((*asked, goes_anywhere))
        self._searches[head.tenant] += 1
        self._most_free = Resources.most(self._free.values())
        return None

    def _shared_out(self, head: Head, fitting: Sequence[NodeId]) -> tuple[NodeId, ...]:
        """Return a node for each task, of those that have room for one, fullest first; or none."""
        need = head.task_count
        room = [
            (head.resources.count_in(self._free[node_id], most=need), node_id)
            for node_id in fitting
        ]
        if sum(count for count, _ in room) < need:
            return ()
        room.sort(key=lambda each: -each[0])  # of equal counts the fullest node stays first
        found: list[NodeId] = []
        place = 0
        while room[place][0] < need - len(found):
            count, node_id = room[place]
            found += [node_id] * count
            place += 1
        # The last node: of all that hold the rest the one that it leaves fullest.
        rest = need - len(found)
        last = {node_id for count, node_id in room[place:] if count >= rest}
        found += [next(each for each in fitting if each in last)] * rest
        return tuple(found)

    def place(self, head: Head, node_ids: tuple[NodeId, ...]) -> Placement:
        """Take it from the nodes, and from what its tenant may have."""
        placement = Placement(head, node_ids)
        for node_id, taken in placement.takes.items():
            node = self._nodes[node_id] = self._nodes[node_id].booked(taken, by=head.work)
            fullness = (*_by_fullness(self._free[node_id]), node_id)
            del self._fullest_first[bisect_left(self._fullest_first, fullness)]
            free = self._free[node_id] = node.free
            insort(self._fullest_first, (*_by_fullness(free), node_id))
        self.given[head.tenant] += head.total
        if (left := self._left.get(head.tenant)) is not None:
            self._left[head.tenant] = left - head.total
        for holding in placement.holdings:
            self._held_by_node[holding.node_id].append(holding)
        return placement


def _by_fullness(free: Resources) -> tuple[int, int, int]:
    """Return what orders nodes, the fullest first: by GPUs, then cores, then memory."""
    return (free.gpu_count, free.cpu_millicores, free.memory_bytes)


def _could_hold(node: Node, head: Head) -> bool:
    """Tell whether a node has room for one task of a head once the jobs of now are over."""
    return head.resources.fits_in(node.capacity) and node.will_take(head.tenant)


def _may_hide_others(node: Node, head: Head) -> bool:
    """Tell whether others' work keeps a head away for as long as any of it is there."""
    return _could_hold(node, head) and not node.takes(head.tenant)


def _fits_from(
    node: Node, head: Head, theirs: Sequence[Holding], *, within: timedelta | None
) -> Iterator[tuple[timedelta, NodeId, int]]:
    """Yield after how long a node has room for how many more of a head's tasks, up to all of them.

    If everybody keeps theirs to the last. What ends later than `within` is left out.
    """
    if not _could_hold(node, head):
        return
    wait = timedelta(0)
    if not node.allows_mixed_tenants:
        others = [each.ends_in for each in theirs if each.tenant != head.tenant]
        if None in others:
            return
        wait = max((each for each in others if each is not None), default=wait)
        if within is not None and wait > within:
            return
    used, count, most = node.used, 0, head.task_count
    ends = sorted(
        (each.ends_in, place)
        for place, each in enumerate(theirs)
        if each.ends_in is not None and (within is None or each.ends_in <= within)
    )
    for ends_in, place in [(wait, None), *ends]:
        if place is not None:
            used = used.less(theirs[place].resources)
            wait = max(wait, ends_in)
        has_room = head.resources.count_in(node.capacity.less(used), most=most)
        if has_room > count:
            yield wait, node.id, has_room - count
            count = has_room
        if count == most:
            return
