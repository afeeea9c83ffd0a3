"""When a head will start, if all that runs ends when that is expected, at its limit at the latest.

Pure: the plan is made again and again, each time after the instant that room is kept for. So it
knows of room that is kept, of who passes, and of plans. What a cycle would place now it does by
limits, as ever; after that what runs ends when history tells, where it does (ADR-0042). Who starts
later runs to its limit. No promise: many end sooner, and some later; a start and a stop take their
time; and who comes later with a larger priority, a replica, or a job whose pause or whose plan is
over, may come between.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from itertools import chain
from typing import Final

from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.scheduling.line import Head
from services.scheduler.domain.scheduling.plan import (
    Decisions,
    Holding,
    Reservation,
    Snapshot,
    plan,
)

WORK_MAX: Final = 20_000
"""Looks of a head at a node, and of a step at a holding and at one in line: some 20 ms of a core
together. The first step is made however much it is."""


class Basis(StrEnum):
    """What tells when that ends which an estimate waits for."""

    LIMITS = "LIMITS"
    """Run time limits alone."""
    HISTORY = "HISTORY"
    """Of some of it, how long the latest of its template took."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a head will start."""

    starts_in: timedelta | None
    """None: it waits for what never ends by itself, or it is too far back to be reckoned."""
    is_cut: bool = False
    """It is too far back."""
    is_by_history: bool = False
    """Some end that it waits for was."""

    @property
    def basis(self) -> Basis | None:
        """Return what tells when it starts; None: nobody can."""
        if self.starts_in is None:
            return None
        return Basis.HISTORY if self.is_by_history else Basis.LIMITS


def steps_max(seen: Snapshot) -> int:
    """Return how many steps a forecast makes at most; what is held may be unknown yet."""
    looks = min(seen.line.totals.count, seen.heads_max) * len(seen.nodes)
    work = looks + seen.line.length + len(seen.holdings or ()) + len(seen.nodes)
    return max(1, WORK_MAX // max(1, work))


def is_beyond(alike_count: int, *, node_count: int) -> bool:
    """Tell whether one behind so many of its own kind is told no instant, with so many nodes.

    Where one of those could have its turn now: else it may be the first.
    """
    return alike_count * node_count > WORK_MAX // 2  # `steps_max` is one


def forecast(head: Head, seen: Snapshot, decisions: Decisions) -> Forecast:
    """Return when a head of a snapshot starts, on which these decisions were made."""
    steps_left = steps_max(seen)
    elapsed, is_by_history = timedelta(0), False
    # In large yards the first alone is told an instant: nobody else needs another plan.
    is_told = steps_left > 1 or _is_kept_for(head, decisions)
    is_all_known = seen.ends_known_to is None
    is_history_ahead = is_told and is_all_known and _has_history(seen)
    is_foreseen = False
    while True:
        if _is_placed(head, decisions):
            return Forecast(elapsed, is_by_history=is_by_history)
        # Who is placed makes its tenant's share larger: the next cycle, which follows at once, may
        # place another one's.
        is_alone = len(seen.line.tenants()) == 1
        is_settled = not decisions.is_cut and (is_alone or not decisions.placements)
        is_last = steps_left == 1
        if is_history_ahead and (is_settled or (is_last and not decisions.is_cut)):
            # All that is placed now is, by limits.
            is_history_ahead, is_foreseen = False, True
            seen = _by_history(seen.with_placed(decisions.placements))
            decisions = plan(seen)
            continue
        kept = decisions.reservation
        if kept is not None and _is_kept_for(head, decisions) and (is_settled or is_last):
            is_by_history |= is_foreseen and _is_told_by_history(seen, kept.starts_in, on=kept)
            return Forecast(elapsed + kept.starts_in, is_by_history=is_by_history)
        ends = [
            each.ends_in
            for each in chain(_held(seen), *(each.holdings for each in decisions.placements))
            if each.ends_in is not None
        ]
        if not ends and is_settled:  # of those that end first none ends: none does
            return Forecast(None)
        steps_left -= 1
        if not (is_all_known and steps_left):
            return Forecast(None, is_cut=True)
        seen = seen.with_placed(decisions.placements)
        if is_settled:
            # To where the first one has its room; what passes it is told that instant, too.
            step = kept.starts_in if kept is not None else min(ends)
            is_by_history |= _is_told_by_history(seen, step)
            seen, elapsed = _after(seen, step), elapsed + step
        decisions = plan(seen)


def _is_placed(head: Head, decisions: Decisions) -> bool:
    return any(placement.head.id == head.id for placement in decisions.placements)


def _is_kept_for(head: Head, decisions: Decisions) -> bool:
    return decisions.reservation is not None and decisions.reservation.head.id == head.id


def _has_history(seen: Snapshot) -> bool:
    return any(each.expected_in is not None for each in _held(seen))


def _by_history(seen: Snapshot) -> Snapshot:
    """Return it with what runs ending when that is expected, which it stays marked by."""
    return replace(
        seen,
        holdings=[
            each if each.expected_in is None else _foreseen(each, each.expected_in)
            for each in _held(seen)
        ],
    )


def _foreseen(each: Holding, expected_in: timedelta) -> Holding:
    """Return one ending when it is expected to; unmarked, at its limit, if that is first."""
    if each.ends_in is None or each.ends_in <= expected_in:
        return Holding(each.node_id, each.tenant, each.resources, each.ends_in)
    return Holding(each.node_id, each.tenant, each.resources, expected_in, expected_in)


def _is_told_by_history(
    seen: Snapshot, length: timedelta, *, on: Reservation | None = None
) -> bool:
    """Tell whether history tells of some end within this time, on the node that room is kept on.

    Where the room is on several nodes, or it is kept for another one, on any.
    """
    node_id = on.node_id if on is not None and on.head.task_count == 1 else None
    return any(
        each.expected_in is not None
        and each.ends_in is not None
        and each.ends_in <= length
        and node_id in {None, each.node_id}
        for each in _held(seen)
    )


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
