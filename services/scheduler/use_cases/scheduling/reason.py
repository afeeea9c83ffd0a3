"""Look at the line and the nodes for what holds one of those who wait."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final

from services.scheduler.domain.fleet.reach import FleetDoors
from services.scheduler.domain.scheduling.causes import Hold
from services.scheduler.domain.scheduling.explanation import (
    Reason,
    reason_far_back,
    reason_in_line,
)
from services.scheduler.domain.scheduling.forecast import is_beyond, steps_max
from services.scheduler.domain.scheduling.line import Head, Line
from services.scheduler.domain.scheduling.plan import Decisions, Snapshot, plan
from services.scheduler.domain.scheduling.shares import Shares
from services.scheduler.use_cases.ports import FirstInLine, Reading, Tenants
from services.scheduler.use_cases.scheduling.snapshot import Ends, allowance, snapshot

_FEW: Final = 10
"""Of each shape."""


@dataclass(frozen=True, slots=True)
class LookAtLine:
    """See what a cycle would see, as far as that tells what holds somebody; nothing is locked."""

    tenants: Tenants
    heads_max: int
    """As a cycle's: who has as many of its own shape before it is told no instant."""
    node_silence_max: timedelta
    soonest_max: int
    """Attempts that end first, which are looked at before all are, as a cycle's."""

    async def shares(self, reading: Reading) -> Shares:
        """Return what all tenants hold and held."""
        return Shares(
            await reading.nodes.capacity_at_work(silence_max=self.node_silence_max),
            await reading.attempts.held(),
            (await reading.usage.averages()).by_tenant,
        )

    async def see(self, reading: Reading, head: Head, *, alike_count: int, at: datetime) -> "Seen":
        """Return what tells what holds one that waits for room.

        `alike_count` are before it in line that are like it.
        """
        doors = await reading.fleet.doors_for(
            head.resources, tenant=head.tenant, silence_max=self.node_silence_max
        )
        held = await reading.attempts.held()
        averages = (await reading.usage.averages()).by_tenant
        few = min(_FEW, self.heads_max)

        async def look(line: Line, *, ends: Ends) -> Snapshot:
            return await snapshot(
                reading,
                line,
                await allowance(reading, self.tenants, line, held=held),
                held=held,
                averages=averages,
                heads_max=self.heads_max,
                node_silence_max=self.node_silence_max,
                ends=ends,
                soonest_max=self.soonest_max,
            )

        async def in_line(each_max: int) -> tuple[Snapshot, InLine]:
            first = await reading.line.first(at=at, each_max=each_max)
            # What ends when may not matter, but to look at the nodes again for it costs as much.
            around = await look(Line.of(first.heads), ends=Ends.SOONEST)
            decisions = plan(around)
            # By history (ADR-0042) others may end first than by limits.
            is_next = decisions.reservation is not None and decisions.reservation.head.id == head.id
            needs_all = decisions.needs_holdings or is_next or steps_max(around) > 1
            if around.ends_known_to is not None and needs_all:
                around = await look(Line.of(first.heads), ends=Ends.ALL)
                decisions = plan(around)
            return around, InLine(first, decisions)

        far_back: Seen | None = None
        is_far_back = alike_count >= self.heads_max
        if is_far_back or is_beyond(alike_count, node_count=doors.open_count):
            far_back = Seen(
                head,
                alike_count,
                doors,
                await look(Line.of([head]), ends=Ends.NONE),
                does_any_end=await reading.attempts.does_any_end(),
            )
            is_held_by_others = far_back.is_held_by_others
            if is_far_back and not is_held_by_others:
                return far_back
            # Where there is room for it those before it take it in a moment, unless they pause; of
            # some that a cycle places at once it may be one.
            is_behind = await reading.line.pausing_count(head.tenant, at=at) < alike_count
            if is_behind and (is_far_back or not is_held_by_others):
                return far_back
        # At a few first: where there is little room that tells it all, and is soon done.
        around, line = await in_line(few)
        if not line.tells_all_of(head, around):
            around, line = await in_line(self.heads_max)
        is_seen = any(each.id == head.id for each in line.first.heads)
        if is_far_back and far_back is not None and not is_seen:
            return far_back
        return Seen(head, alike_count, doors, around, line)


@dataclass(frozen=True, slots=True)
class InLine:
    """The first of each shape, and what a cycle would decide on them."""

    first: FirstInLine
    decisions: Decisions

    def is_certain(self, heads_max: int) -> bool:
        """Tell whether no more of a shape may have been placed than were looked at."""
        return self.first.is_whole and (
            self.first.each_max >= heads_max or self._most_placed < self.first.each_max
        )

    def tells_all_of(self, head: Head, around: Snapshot) -> bool:
        """Tell whether a look at more of each shape would tell nothing else of one that waits.

        None was placed to the last that was looked at, and no forecast goes beyond these decisions.
        """
        are_alike_refused = self._most_placed < self.first.each_max and steps_max(around) == 1
        # A forecast also tells who waits for what never ends.
        ends = (each.ends_in for each in around.holdings or ())
        is_foreseen = around.line.find(head.id) is not None or any(
            each is not None for each in ends
        )
        return are_alike_refused and is_foreseen

    @property
    def _most_placed(self) -> int:
        placed = Counter(placement.head.shape for placement in self.decisions.placements)
        return max(placed.values(), default=0)


@dataclass(frozen=True)
class Seen:
    """What was there for one that waits; to tell from it what holds it needs no database."""

    head: Head
    alike_count: int
    doors: FleetDoors
    around: Snapshot
    line: InLine | None = None
    """None: it is too far back for a look at others."""
    does_any_end: bool = True
    """Whether anything that runs ends by itself; where the line was looked at a forecast tells."""

    @property
    def is_held_by_others(self) -> bool:
        """Tell whether nothing holds it but those before it, of whom some may pause."""
        return self.reason.hold in {Hold.ORDER, Hold.PLAN}

    @cached_property
    def reason(self) -> Reason:
        """Return what holds it: told once, since it takes a look at each node."""
        if self.line is None:
            return reason_far_back(
                self.head,
                self.around,
                self.doors,
                alike_count=self.alike_count,
                does_any_end=self.does_any_end,
            )
        is_certain = self.line.is_certain(self.around.heads_max)
        return reason_in_line(
            self.head, self.around, self.line.decisions, self.doors, is_certain=is_certain
        )
