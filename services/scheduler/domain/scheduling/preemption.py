"""Who is asked to stop so that the first in line, for which there is no room, has some (ADR-0038).

Pure: it reads a picture and returns a choice. `use_cases.scheduling.preempt_jobs` carries it out
and checks each one again, since the picture may be old by then.

Invariants: only jobs of a smaller priority are chosen; once they and what leaves anyway have ended
the first in line has room, with all of its tasks; if any of them stayed it would not; nobody is
chosen where what leaves anyway makes the room.

A job of one task needs one node, so each node is looked at by itself. One of several tasks needs
room for a count of them, wherever that is (ADR-0037): all nodes are looked at together.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import groupby

from services.chassis.tenancy import TenantId
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import AttemptId, NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.line import Head


@dataclass(frozen=True, slots=True)
class Running:
    """What one owner's open attempts hold of their nodes, and what its stop would cost."""

    id: str
    tenant: TenantId
    held: Mapping[NodeId, Resources]
    """All of it comes free if it is stopped, wherever that is."""
    placed_for: timedelta
    """What it has done is lost but for its checkpoint, so this is what its stop costs."""
    priority: int | None = None
    """A job's; None: a replica, which nobody stops for a job."""
    attempt_id: AttemptId | None = None
    """The current one of its job, by which a later look knows it again."""
    ends_in: timedelta | None = None
    """By its run time limit, or by its grace once it is asked to stop; None: never by itself."""
    stop_grace: timedelta = timedelta(0)
    is_stopping: bool = False
    attempt_count: int = 1
    """A job has one for each of its tasks."""

    def with_another(self, node_id: NodeId, resources: Resources) -> "Running":
        """Return it with one more attempt of the same owner."""
        on_node = self.held.get(node_id, Resources()) + resources
        return replace(
            self,
            held={**self.held, node_id: on_node},
            attempt_count=self.attempt_count + 1,
        )

    @property
    def leaves_anyway(self) -> bool:
        """Tell whether its room comes free as soon as if it were asked for it now."""
        is_over_soon = self.ends_in is not None and self.ends_in <= self.stop_grace
        return self.is_stopping or is_over_soon

    def may_be_stopped_for(self, head: Head) -> bool:
        """Tell whether a head comes before it, and it is there to be asked."""
        is_smaller = self.priority is not None and self.priority < head.shape.priority
        return is_smaller and not self.leaves_anyway


@dataclass(slots=True)
class _Theirs:
    """Those of one node, by whether they leave it."""

    leaving: Resources = field(default_factory=Resources)
    may_stop: list[Running] = field(default_factory=list)
    staying: set[TenantId] = field(default_factory=set)
    """Whose work stays whoever is stopped."""


@dataclass(frozen=True, slots=True)
class _Need:
    """What a head lacks on a node, and who could give it."""

    node_id: NodeId
    short: Resources
    in_its_way: Sequence[Running]
    """Other tenants', where a node takes one tenant's work at a time: all of them have to go."""
    others: Sequence[Running] = ()
    """Those of the smallest priorities that are enough together."""

    @property
    def largest_priority(self) -> int:
        """Return the largest priority that has to be met."""
        return max(each.priority or 0 for each in (*self.in_its_way, *self.others))

    @property
    def is_met(self) -> bool:
        """Tell whether what leaves anyway is enough."""
        return not self.in_its_way and self.short == Resources()

    def victims(self) -> tuple[Running, ...]:
        """Return the fewest, as far as can be told, without whom there is no room."""
        chosen = list(self.in_its_way)
        freed = self._freed_by((*self.in_its_way, *self.others))
        # Those that it is worst to meet are let off first, if the others are enough.
        for each in sorted(self.others, key=self._worth):
            without_it = freed - each.held[self.node_id]
            if self.short.fits_in(without_it):
                freed = without_it
            else:
                chosen.append(each)
        return tuple(chosen)

    def widened(self, may_stop: Sequence[Running]) -> "_Need | None":
        """Return the need with those who could meet it; None: not even all of them could."""
        freed = self._freed_by(self.in_its_way)
        largest = max((each.priority or 0 for each in self.in_its_way), default=0)
        others: list[Running] = []
        for each in sorted(may_stop, key=lambda each: each.priority or 0):
            priority = each.priority or 0
            if priority > largest and self.short.fits_in(freed):
                break
            freed, largest = freed + each.held[self.node_id], max(largest, priority)
            others.append(each)
        return replace(self, others=others) if self.short.fits_in(freed) else None

    def _freed_by(self, running: Sequence[Running]) -> Resources:
        return sum((each.held[self.node_id] for each in running), Resources())

    def _worth(self, running: Running) -> tuple[int, float, timedelta, str]:
        """Return what orders those that may stay: a larger priority, little help, a long time."""
        help_of = _help(running.held[self.node_id], self.short, most=1)
        return -(running.priority or 0), help_of, -running.placed_for, running.id


@dataclass(slots=True)
class _Place:
    """A node that could hold tasks of a head, while it is tried who goes."""

    node: Node
    gone: Resources
    in_its_way_count: int
    """Other tenants', where a node takes one tenant's work at a time."""

    def count(self, head: Head) -> int:
        """Return how many of its tasks have room."""
        if self.in_its_way_count:
            return 0
        # By what is booked, as for one task.
        free = self.node.capacity.less(self.node.used.less(self.gone))
        return head.resources.count_in(free, most=head.task_count)


class _Places:
    """For how many of a head's tasks there is room, while it is tried who goes."""

    def __init__(
        self, head: Head, nodes: Iterable[Node], on_node: Mapping[NodeId, _Theirs]
    ) -> None:
        self._head = head
        self._places = {
            node.id: place
            for node in nodes
            if (place := _place(node, head, on_node[node.id])) is not None
        }
        self._counts = {node_id: place.count(head) for node_id, place in self._places.items()}
        self.count = sum(self._counts.values())

    @property
    def is_enough(self) -> bool:
        """Tell whether all of its tasks would have room."""
        return self.count >= self._head.task_count

    def held_by(self, running: Running) -> Mapping[NodeId, Resources]:
        """Return what one holds where the head could have room."""
        return {node_id: held for node_id, held in running.held.items() if node_id in self._places}

    def let_go(self, running: Running) -> None:
        """Count it as gone."""
        self._move(running, is_back=False)

    def take_back(self, running: Running) -> None:
        """Count it as there again."""
        self._move(running, is_back=True)

    def _move(self, running: Running, *, is_back: bool) -> None:
        is_others = running.tenant != self._head.tenant
        for node_id, held in self.held_by(running).items():
            place = self._places[node_id]
            place.gone = place.gone - held if is_back else place.gone + held
            if is_others and not place.node.allows_mixed_tenants:
                place.in_its_way_count += 1 if is_back else -1
            count = place.count(self._head)
            self.count += count - self._counts[node_id]
            self._counts[node_id] = count


def choose_victims(
    head: Head, nodes: Sequence[Node], running: Sequence[Running]
) -> tuple[Running, ...]:
    """Return whom to ask to stop so that a head has room with all its tasks, at the least loss.

    Nobody where that would not help, and where what leaves anyway makes the room: so there is no
    second choice for a head while those of the first still stop. Loss is the largest priority that
    is met, then how many, then for how long they have been there. How many is exact where one is
    enough, or, for one task, where only one amount is short; else it is near the fewest.
    """
    on_node = _by_node(head, running)
    if head.task_count > 1:
        return _for_several_tasks(head, _Places(head, nodes, on_node), running)
    needs = []
    for node in nodes:
        need = _need(node, head, on_node[node.id])
        if need is None:
            continue
        if need.is_met:
            return ()
        needs.append(need)
    least = min((need.largest_priority for need in needs), default=0)
    choices = [
        (*_loss(victims), need.node_id, victims)
        for need in needs
        if need.largest_priority == least and (victims := need.victims())
    ]
    *_, victims = min(choices, key=lambda choice: choice[:3], default=((),))
    return victims


def _for_several_tasks(
    head: Head, places: _Places, running: Sequence[Running]
) -> tuple[Running, ...]:
    if places.is_enough:
        return ()
    may_stop = [each for each in running if each.may_be_stopped_for(head) and places.held_by(each)]
    # 1. One who is enough alone, of the smallest priority.
    alone = [each for each in may_stop if _is_enough_alone(places, each)]
    # 2. All of the smallest priorities that are enough together.
    chosen: list[Running] = []
    may_stop.sort(key=lambda each: each.priority or 0)
    for _, alike in groupby(may_stop, key=lambda each: each.priority):
        for each in alike:
            places.let_go(each)
            chosen.append(each)
        if places.is_enough:
            break
    else:
        return ()
    largest = chosen[-1].priority
    if alone := [each for each in alone if each.priority == largest]:
        return (min(alone, key=lambda each: (*_loss([each]), each.id)),)
    # 3. Those that it is worst to meet are let off first, if the others are enough.
    beside = Counter(node_id for each in chosen for node_id in places.held_by(each))
    victims = []
    for each in sorted(chosen, key=lambda each: _worth(each, head, places.held_by(each), beside)):
        places.take_back(each)
        if not places.is_enough:
            places.let_go(each)
            victims.append(each)
    return tuple(victims)


def _is_enough_alone(places: _Places, running: Running) -> bool:
    places.let_go(running)
    is_enough = places.is_enough
    places.take_back(running)
    return is_enough


def _worth(
    running: Running, head: Head, held: Mapping[NodeId, Resources], beside: Mapping[NodeId, int]
) -> tuple[int, float, int, timedelta, str]:
    """Return what orders those that may stay for a head of several tasks.

    A larger priority, little help, many beside whom it would have to go, a long time.
    """
    help_of = sum(_help(each, head.resources, most=head.task_count) for each in held.values())
    crowd = min(beside[node_id] for node_id in held)
    return -(running.priority or 0), help_of, -crowd, -running.placed_for, running.id


def _help(held: Resources, lack: Resources, *, most: float) -> float:
    """Return how much of what is lacking is held, each amount up to `most` times."""
    amounts = (
        (held.gpu_count, lack.gpu_count),
        (held.cpu_millicores, lack.cpu_millicores),
        (held.memory_bytes, lack.memory_bytes),
    )
    return sum(min(most, amount / lacking) for amount, lacking in amounts if lacking)


def _by_node(head: Head, running: Sequence[Running]) -> Mapping[NodeId, _Theirs]:
    on_node: defaultdict[NodeId, _Theirs] = defaultdict(_Theirs)
    for each in running:
        leaves = each.leaves_anyway
        for node_id, resources in each.held.items():
            theirs = on_node[node_id]
            if leaves:
                theirs.leaving += resources
            elif each.may_be_stopped_for(head):
                theirs.may_stop.append(each)
            else:
                theirs.staying.add(each.tenant)
    return on_node


def _place(node: Node, head: Head, theirs: _Theirs) -> _Place | None:
    """Return a node as one that may come to hold tasks of a head; None where no stop helps it."""
    if not _may_help(node, head, theirs):
        return None
    return _Place(node, theirs.leaving, len(_in_its_way(node, head, theirs)))


def _need(node: Node, head: Head, theirs: _Theirs) -> _Need | None:
    """Return what a head lacks on a node; None where no stop there gives it its room."""
    if not _may_help(node, head, theirs):
        return None
    in_its_way = _in_its_way(node, head, theirs)
    is_mixed = node.allows_mixed_tenants
    may_stop = [each for each in theirs.may_stop if is_mixed or each.tenant == head.tenant]
    # By what is booked, not by what is free: a node that came back smaller has more booked than it
    # has, and its first ends free nothing.
    short = (head.resources + node.used.less(theirs.leaving)).less(node.capacity)
    short = short.where_asked(head.resources)
    return _Need(node.id, short, in_its_way).widened(may_stop)


def _may_help(node: Node, head: Head, theirs: _Theirs) -> bool:
    """Tell whether a head may come to have room on a node, if enough stop there."""
    is_anothers = not node.allows_mixed_tenants and bool(theirs.staying - {head.tenant})
    return node.is_open and head.resources.fits_in(node.capacity) and not is_anothers


def _in_its_way(node: Node, head: Head, theirs: _Theirs) -> Sequence[Running]:
    """Return who has to go before a node that takes one tenant's work at a time lets a head in."""
    if node.allows_mixed_tenants:
        return ()
    return [each for each in theirs.may_stop if each.tenant != head.tenant]


def _loss(victims: Sequence[Running]) -> tuple[int, timedelta]:
    """Return how many are stopped, and how much of their work, beside whom that meets."""
    return len(victims), sum(
        (each.placed_for * each.attempt_count for each in victims), timedelta(0)
    )
