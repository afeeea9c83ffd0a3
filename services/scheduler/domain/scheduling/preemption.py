"""Who is asked to stop so that the first in line, for which there is no room, has some (ADR-0038).

Pure: it reads a picture and returns a choice. `use_cases.scheduling.preempt_jobs` carries it out
and checks each one again, since the picture may be old by then.

Invariants: only jobs of a smaller priority are chosen; once they and what leaves anyway have ended
the first in line has room on one node; if any of them stayed it would not; nobody is chosen where
what leaves anyway makes the room.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

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
    stop_grace: timedelta = timedelta(0)
    is_stopping: bool = False

    @property
    def leaves_anyway(self) -> bool:
        """Tell whether its room comes free as soon as if it were asked for it now."""
        is_over_soon = self.ends_in is not None and self.ends_in <= self.stop_grace
        return self.is_stopping or is_over_soon

    def may_be_stopped_for(self, head: Head) -> bool:
        """Tell whether a head comes before it, and it is there to be asked."""
        is_smaller = self.priority is not None and self.priority < head.shape.priority
        return is_smaller and not self.leaves_anyway


@dataclass(frozen=True, slots=True)
class _Choice:
    """Whom to stop so that a head has room on a node."""

    node_id: NodeId
    victims: tuple[Running, ...]

    @property
    def loss(self) -> tuple[int, int, timedelta, NodeId]:
        """Return what it costs: whom it meets, how many, how much of their work."""
        largest = max(each.priority or 0 for each in self.victims)
        lost = sum((each.placed_for * len(each.held) for each in self.victims), timedelta(0))
        return largest, len(self.victims), lost, self.node_id


def choose_victims(
    head: Head, nodes: Sequence[Node], running: Sequence[Running]
) -> tuple[Running, ...]:
    """Return whom to ask to stop so that a head has room on one node, at the least loss.

    Nobody where that would not help, and where what leaves anyway makes the room: so there is no
    second choice for a head while those of the first still stop. Loss is the largest priority that
    is met, then how many, then for how long they have been there. How many is exact where one is
    enough, or where only one amount is short; else it is near the fewest.
    """
    on_node: defaultdict[NodeId, list[Running]] = defaultdict(list)
    for each in running:
        for node_id in each.held:
            on_node[node_id].append(each)
    choices = []
    for node in nodes:
        choice = _choice_on(node, head, on_node[node.id])
        if choice is None:
            continue
        if not choice.victims:
            return ()
        choices.append(choice)
    return min(choices, key=lambda each: each.loss).victims if choices else ()


def _choice_on(node: Node, head: Head, theirs: Sequence[Running]) -> _Choice | None:
    """Return whom to stop on a node; None where no stop there gives a head its room."""
    if not node.is_open or not head.resources.fits_in(node.capacity):
        return None
    here = [each for each in theirs if not each.leaves_anyway]
    may_stop = [each for each in here if each.may_be_stopped_for(head)]
    in_its_way = [] if node.allows_mixed_tenants else _others(here, than=head.tenant)
    if not all(each.may_be_stopped_for(head) for each in in_its_way):
        return None
    leaving = _held(theirs, on=node.id).less(_held(here, on=node.id))
    # Of what is booked, not of what is free: a node that came back smaller has more booked than it
    # has, and its first ends free nothing.
    stays = node.used.less(leaving + _held(may_stop, on=node.id))
    if not head.resources.fits_in(node.capacity.less(stays)):
        return None
    short = head.resources.less(node.capacity.less(node.used.less(leaving)))
    victims = []
    # Those that it is worst to meet are let off first, if the others are enough.
    for each in sorted(may_stop, key=lambda each: _worth(each, short, on=node.id)):
        with_it = stays + each.held[node.id]
        if each not in in_its_way and head.resources.fits_in(node.capacity.less(with_it)):
            stays = with_it
        else:
            victims.append(each)
    return _Choice(node.id, tuple(victims))


def _worth(running: Running, short: Resources, *, on: NodeId) -> tuple[int, float, timedelta, str]:
    """Return what orders those that may stay: the larger priority, what helps little, the old."""
    freed, lacks = running.held[on].amounts(), short.amounts()
    help_of = (min(1.0, freed[name] / lack) for name, lack in lacks.items() if lack)
    return -(running.priority or 0), sum(help_of), -running.placed_for, running.id


def _others(running: Sequence[Running], *, than: TenantId) -> list[Running]:
    return [each for each in running if each.tenant != than]


def _held(running: Sequence[Running], *, on: NodeId) -> Resources:
    return sum((each.held[on] for each in running), Resources())
