"""Look at the line and the nodes for what holds one of those who wait."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from services.scheduler.domain.fleet.reach import FleetDoors
from services.scheduler.domain.scheduling.explanation import (
    Hold,
    Reason,
    reason_far_back,
    reason_in_line,
)
from services.scheduler.domain.scheduling.forecast import steps_max
from services.scheduler.domain.scheduling.line import Head, Line
from services.scheduler.domain.scheduling.plan import Decisions, Snapshot, plan
from services.scheduler.domain.scheduling.shares import Shares
from services.scheduler.use_cases.ports import FirstInLine, Reading, Tenants
from services.scheduler.use_cases.scheduling.snapshot import snapshot


@dataclass(frozen=True, slots=True)
class LookAtLine:
    """See what a cycle would see, as far as that tells what holds somebody; nothing is locked."""

    tenants: Tenants
    heads_max: int
    """As a cycle's: who has as many of its own shape before it is told no instant."""
    node_silence_max: timedelta

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
        look = partial(
            snapshot,
            reading,
            self.tenants,
            held=await reading.attempts.held(),
            averages=(await reading.usage.averages()).by_tenant,
            heads_max=self.heads_max,
            node_silence_max=self.node_silence_max,
        )
        far_back: Seen | None = None
        if alike_count >= self.heads_max:
            around = await look(Line.of([head]), with_ends=False)
            far_back = Seen(head, alike_count, doors, around)
            if not far_back.is_held_by_others:
                return far_back
        # Where there is room for it those before it take it in a moment, unless they pause.
        first = await reading.line.first(at=at, each_max=self.heads_max)
        if far_back is not None and not any(each.id == head.id for each in first.heads):
            return far_back
        line = Line.of(first.heads)
        around = await look(line, with_ends=False)
        decisions = plan(around)
        if _needs_ends(head, around, decisions):
            around = await look(line, with_ends=True)
            decisions = plan(around)
        return Seen(head, alike_count, doors, around, InLine(first, decisions))


def _needs_ends(head: Head, around: Snapshot, decisions: Decisions) -> bool:
    """Tell whether what ends when matters to one: that is a row for each attempt.

    In a large yard to the first without room alone, where nobody behind it has any: no forecast
    comes to the others.
    """
    is_first = decisions.blocked is not None and decisions.blocked.id == head.id
    is_placed = any(placement.head.id == head.id for placement in decisions.placements)
    return is_first or is_placed or decisions.needs_holdings or steps_max(around) > 1


@dataclass(frozen=True, slots=True)
class InLine:
    """The first of each shape, and what a cycle would decide on them."""

    first: FirstInLine
    decisions: Decisions

    def is_certain(self, heads_max: int) -> bool:
        """Tell whether no more of a shape may have been placed than were looked at."""
        placed = Counter(placement.head.shape for placement in self.decisions.placements)
        most, each_max = max(placed.values(), default=0), self.first.each_max
        return self.first.is_whole and (each_max >= heads_max or most < each_max)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was there for one that waits; to tell from it what holds it needs no database."""

    head: Head
    alike_count: int
    doors: FleetDoors
    around: Snapshot
    line: InLine | None = None
    """None: it is too far back for a look at others."""

    @property
    def is_held_by_others(self) -> bool:
        """Tell whether nothing holds it but those before it, of whom some may pause."""
        return self.reason().hold in {Hold.ORDER, Hold.PLAN}

    def reason(self) -> Reason:
        """Return what holds it."""
        if self.line is None:
            return reason_far_back(self.head, self.around, self.doors, alike_count=self.alike_count)
        is_certain = self.line.is_certain(self.around.heads_max)
        return reason_in_line(
            self.head, self.around, self.line.decisions, self.doors, is_certain=is_certain
        )
