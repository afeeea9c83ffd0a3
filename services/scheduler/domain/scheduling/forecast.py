"""When a head will start, if all that runs does so to its limit.

Pure: the plan is made again and again, each time after the next end. So it knows of backfill, of
room that is kept, of who will pass, and of plans. No promise: most end sooner; and who comes later
with a larger priority, a replica, or for all but the first a job that passes, may come between.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.scheduling.plan import (
    Head,
    Holding,
    Placement,
    Snapshot,
    plan,
)

LOOKS_MAX: Final = 10_000
"""Looks of a head at a node: about 20 ms of a core. Who needs more is told no instant."""


def starts_in(head: Head, seen: Snapshot) -> timedelta | None:
    """Return after how long a head of the snapshot starts; None: nobody can tell."""
    now, elapsed = seen, timedelta(0)
    for _ in range(LOOKS_MAX // max(1, len(seen.heads) * len(seen.nodes))):
        placements = plan(now).placements
        if any(placement.head.id == head.id for placement in placements):
            return elapsed
        now = _with(now, placements)
        ends = [each.ends_in for each in now.holdings if each.ends_in is not None]
        if not ends:
            return None
        now = _after(now, min(ends))
        elapsed += min(ends)
    return None


def _with(seen: Snapshot, placements: Sequence[Placement]) -> Snapshot:
    """Return what is there once these have begun."""
    placed = {placement.head.id for placement in placements}
    nodes = {node.id: node for node in seen.nodes}
    left = dict(seen.left)
    holdings = list(seen.holdings)
    for placement in placements:
        head, node = placement.head, nodes[placement.node_id]
        nodes[node.id] = node.booked(head.resources, by=head.work)
        holdings.append(Holding(node.id, head.tenant, head.resources, head.run_max))
        if head.tenant in left:
            left[head.tenant] -= head.resources
    waiting = [head for head in seen.heads if head.id not in placed]
    return Snapshot(waiting, list(nodes.values()), left, holdings)


def _after(seen: Snapshot, length: timedelta) -> Snapshot:
    """Return what is there once so much time has passed."""
    nodes = {node.id: node for node in seen.nodes}
    left = dict(seen.left)
    stay = []
    for each in seen.holdings:
        if each.ends_in is None:
            stay.append(each)
        elif each.ends_in > length:
            stay.append(replace(each, ends_in=each.ends_in - length))
        else:
            if (node := nodes.get(each.node_id)) is not None:
                nodes[node.id] = replace(node, used=node.used.less(each.resources))
            if each.tenant in left:
                left[each.tenant] += each.resources
    return Snapshot(seen.heads, [_told_by(node, stay) for node in nodes.values()], left, stay)


def _told_by(node: Node, holdings: Sequence[Holding]) -> Node:
    """Return a node with what it holds, where that keeps others' away."""
    if node.allows_mixed_tenants:
        return node
    return replace(node, holds=frozenset(e.work for e in holdings if e.node_id == node.id))
