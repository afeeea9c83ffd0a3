"""What the leader keeps in memory from cycle to cycle: the line, and what tenants held lately.

Owns: that the line in memory is the table's. It is read whole by who begins to lead, and then
changed by what the table's changes tell, never by what a cycle believes to have done: a cycle that
fails, or whose commit nobody knows of, leaves nothing to mend (ADR-0034). Now and again its totals
are compared with the table's; one that differs is a bug, and is read whole again.

Also that what was decided in vain is not decided again while nothing changes: in a full yard most
cycles find what the last one found.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from services.chassis.tenancy import TenantId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.line import Line
from services.scheduler.domain.scheduling.plan import Decisions
from services.scheduler.domain.scheduling.shares import Averages
from services.scheduler.use_cases.ports import Lease, SystemTransaction, Tenants, UnitOfWork
from services.scheduler.use_cases.scheduling.snapshot import Allowance

NEWS_AT_ONCE: Final = 5_000
_CHECKED_EVERY: Final = timedelta(minutes=1)
_KEPT_EVERY: Final = timedelta(seconds=10)
"""What a leader that dies has not kept is that much of what was held."""

_DECIDED_EVERY: Final = timedelta(seconds=10)
"""Though nothing changes: time alone makes those shares smaller whose tenants hold less than they
did, and so may give another one its turn first."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a cycle decides on, but for what time alone changes."""

    line_edition: int
    allowed: Allowance
    held: Mapping[TenantId, Resources]
    """An end on a node that takes nothing changes this alone."""
    nodes: str
    """Their fingerprint."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """How what is kept of the line compared with the table, for all we know."""

    is_line_right: bool
    are_counts_mended: bool


@dataclass(slots=True)
class LeadersMemory:
    """One process's, of use while it leads; one cycle at a time."""

    unit_of_work: UnitOfWork
    usage_half_life: timedelta
    """What a tenant held so long ago counts half in its share."""
    line: Line = field(default_factory=Line)
    averages: Averages = field(default_factory=Averages)
    _epoch: int | None = None
    _checked_at: datetime | None = None
    _kept_at: datetime | None = None
    _in_vain: tuple[Sight, Decisions, datetime] | None = None

    def is_of(self, lease: Lease) -> bool:
        """Tell whether it has followed the line since this lease began."""
        return self._epoch == lease.epoch

    async def begin(self, lease: Lease) -> None:
        """Read the line whole; raises Conflict when the lease is over.

        The line in a transaction of its own: whoever is to lead next waits for one that holds the
        lease, and a long line takes long to read.
        """
        # What is noted by now, the table shows; what is noted from now on is news. In parts, since
        # there are many notes where nobody has taken any for long.
        is_more = True
        while is_more:
            async with self.unit_of_work.system(
                because="who begins to lead reads the line whole"
            ) as tx:
                await tx.hold(lease)
                is_more = await tx.line.forget_news(limit=NEWS_AT_ONCE)
        line = Line()
        async with self.unit_of_work.system(because="all tenants stand in one line") as tx:
            async for some in tx.line.everybody():
                for waiting in some:
                    line.put(waiting)
            self.averages = await tx.usage.averages()
            # Not compared at once: were the comparison wrong, nothing would ever be admitted.
            self._checked_at = tx.now
        self.line, self._epoch, self._in_vain = line, lease.epoch, None

    async def catch_up(self, tx: SystemTransaction) -> CaughtUp:
        """Take over all that has changed; now and again compare what is kept with the table.

        A line that is not the table's is to be read whole again.
        """
        is_check_due = _is_due(self._checked_at, _CHECKED_EVERY, at=tx.now)
        is_right = await self._take_news(tx, with_totals=is_check_due)
        are_counts_mended = is_check_due and await tx.line.mend_counts()
        if is_check_due:
            self._checked_at = tx.now
        if not is_right:
            self._epoch = None
        self.line.end_pauses(at=tx.now)
        return CaughtUp(is_right, are_counts_mended)

    async def look(self, tx: SystemTransaction, tenants: Tenants) -> Mapping[TenantId, Resources]:
        """Return what each tenant holds, and let its average follow."""
        held = await tx.attempts.held()
        self.averages = self.averages.after(
            held, at=tx.now, half_life=self.usage_half_life, gone=tenants.purged()
        )
        if _is_due(self._kept_at, _KEPT_EVERY, at=tx.now):
            await tx.usage.keep(self.averages)
            self._kept_at = tx.now
        return held

    def decided_in_vain(self, seen: Sight, *, at: datetime) -> Decisions | None:
        """Return what was decided at this very sight a moment ago, if it placed nobody.

        Who was refused then is refused now: what is held ends sooner the more time passes, so less
        may pass who waits for it; what has ended by then has changed the nodes.
        """
        if self._in_vain is None:
            return None
        sight, decisions, decided_at = self._in_vain
        is_recent = decided_at <= at < decided_at + _DECIDED_EVERY
        return decisions if is_recent and sight == seen else None

    def note_decided(self, decisions: Decisions, seen: Sight, *, at: datetime) -> None:
        """Keep what was decided if it placed nobody."""
        self._in_vain = None if decisions.placements else (seen, decisions, at)

    async def _take_news(self, tx: SystemTransaction, *, with_totals: bool) -> bool:
        while True:
            news = await tx.line.take_news(limit=NEWS_AT_ONCE, with_totals=with_totals)
            for change in news.changes:
                self.line.change(change)
            if not news.is_cut:
                return news.totals is None or news.totals == self.line.totals


def _is_due(last: datetime | None, every: timedelta, *, at: datetime) -> bool:
    return last is None or at - last >= every
