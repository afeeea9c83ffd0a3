"""When a head will start, if all that runs does so to its limit.

Pure: the plan is made again and again, each time after the instant that room is kept for. So it
knows of room that is kept, of who passes, and of plans. No promise: most end sooner; a start and a
stop take their time; and who comes later with a larger priority, a replica, or a job whose pause or
whose plan is over, may come between.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain
from typing import Final

from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.scheduling.line import Head
from services.scheduler.domain.scheduling.plan import Decisions, Holding, Snapshot, plan

WORK_MAX: Final = 20_000
"""Looks of a head at a node, and of a step at a holding and at one in line: some 20 ms of a core
together. The first step is made however much it is."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a head will start."""

    starts_in: timedelta | None
    """None: it waits for what never ends by itself, or it is too far back to be reckoned."""
    is_cut: bool = False
    """It is too far back."""


def steps_max(seen: Snapshot) -> int:
    """Return how many steps a forecast makes at most; what is held may be unknown yet."""
    looks = min(seen.line.totals.count, seen.heads_max) * len(seen.nodes)
    work = looks + seen.line.length + len(seen.holdings or ()) + len(seen.nodes)
    return max(1, WORK_MAX // max(1, work))


def forecast(head: Head, seen: Snapshot, decisions: Decisions) -> Forecast:
    """Return when a head of a snapshot starts, on which these decisions were made."""
    steps_left = steps_max(seen)
    elapsed = timedelta(0)
    while True:
        if any(placement.head.id == head.id for placement in decisions.placements):
            return Forecast(elapsed)
        kept = decisions.reservation
        if kept is not None and kept.head.id == head.id:
            return Forecast(elapsed + kept.starts_in)
        if seen.ends_known_to is not None:
            return Forecast(None, is_cut=True)
        ends = [
            each.ends_in
            for each in chain(_held(seen), *(each.holdings for each in decisions.placements))
            if each.ends_in is not None
        ]
        if not ends and not decisions.is_cut:
            return Forecast(None)
        steps_left -= 1
        if not steps_left:
            return Forecast(None, is_cut=True)
        seen = seen.with_placed(decisions.placements)
        if not decisions.is_cut:  # else the next cycle follows at once
            # To where the first one has its room; what passes it is told that instant, too.
            step = kept.starts_in if kept is not None else min(ends)
            seen, elapsed = _after(seen, step), elapsed + step
        decisions = plan(seen)


def _after(seen: Snapshot, length: timedelta) -> Snapshot:
    """Return what is there once so much time has passed."""
    nodes = {node.id: node for node in seen.nodes}
    left, held = dict(seen.left), dict(seen.shares.held)
    stay: defaultdict[NodeId, list[Holding]] = defaultdict(list)
    for each in _held(seen):
        if each.ends_in is None:
            stay[each.node_id].append(each)
        elif each.ends_in > length:
            stay[each.node_id].append(each._replace(ends_in=each.ends_in - length))
        else:
            if (node := nodes.get(each.node_id)) is not None:
                nodes[node.id] = replace(node, used=node.used.less(each.resources))
            if each.tenant in left:
                left[each.tenant] += each.resources
            if each.tenant in held:
                held[each.tenant] = held[each.tenant].less(each.resources)
    return replace(
        seen,
        nodes=[_told_by(node, stay[node.id]) for node in nodes.values()],
        shares=replace(seen.shares, held=held),
        left=left,
        holdings=[each for on_node in stay.values() for each in on_node],
    )


def _held(seen: Snapshot) -> Sequence[Holding]:
    assert seen.holdings is not None, "nobody foresees what ends without a look at it"
    return seen.holdings


def _told_by(node: Node, holdings: Sequence[Holding]) -> Node:
    """Return a node with what it holds, where that keeps others away."""
    if node.allows_mixed_tenants:
        return node
    return replace(node, holds=frozenset(each.work for each in holdings))
