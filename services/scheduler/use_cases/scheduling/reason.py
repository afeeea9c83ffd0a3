"""Look at the line and the nodes for what holds one of those who wait."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from services.scheduler.domain.fleet.reach import FleetDoors
from services.scheduler.domain.scheduling.explanation import (
    Reason,
    reason_far_back,
    reason_in_line,
)
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
        if alike_count >= self.heads_max:
            around = await look(Line.of([head]), with_ends=False)
            return Seen(head, alike_count, doors, around, first=None)
        first = await reading.line.first(at=at, each_max=self.heads_max)
        around = await look(Line.of(first.heads), with_ends=True)
        return Seen(head, alike_count, doors, around, first)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was there for one that waits; to tell from it what holds it needs no database."""

    head: Head
    alike_count: int
    doors: FleetDoors
    around: Snapshot
    first: FirstInLine | None
    """None: it is too far back for a look at others."""

    def reason(self) -> Reason:
        """Return what holds it."""
        if self.first is None:
            return reason_far_back(self.head, self.around, self.doors, alike_count=self.alike_count)
        decisions = plan(self.around)
        is_certain = self.first.is_whole and not self._is_short(self.first, decisions)
        return reason_in_line(self.head, self.around, decisions, self.doors, is_certain=is_certain)

    def _is_short(self, first: FirstInLine, decisions: Decisions) -> bool:
        """Tell whether more of a shape may have been placed than were looked at."""
        placed = Counter(placement.head.shape for placement in decisions.placements)
        is_cut = first.each_max < self.around.heads_max
        return is_cut and max(placed.values(), default=0) >= first.each_max
