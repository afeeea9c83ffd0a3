"""Look at all that a decision on the line is made of."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Protocol

from services.chassis.tenancy import TenantId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.line import Line
from services.scheduler.domain.scheduling.plan import Holding, Snapshot
from services.scheduler.domain.scheduling.shares import Average, Shares
from services.scheduler.use_cases.ports import Bookings, NodesAtWork, SeenLine, Tenants


class Ends(Enum):
    """Of how much of what runs it is looked at when it ends."""

    NONE = auto()
    SOONEST = auto()
    """The first one without room waits for the end of some few, mostly, of thousands."""
    ALL = auto()


class Look(Protocol):
    """What a snapshot is read from: a transaction, or reads that each stand alone."""

    @property
    def attempts(self) -> Bookings:
        """Return what runs."""
        ...

    @property
    def line(self) -> SeenLine:
        """Return which queues are paused."""
        ...

    @property
    def nodes(self) -> NodesAtWork:
        """Return the machines."""
        ...


@dataclass(frozen=True, slots=True)
class Allowance:
    """What those in line may be given, whatever there is."""

    left: Mapping[TenantId, Resources]
    """What tenants may take that may not take everything."""
    paused: Collection[tuple[TenantId, str]]
    """Queues of which nothing is placed."""


async def allowance(
    look: Look, tenants: Tenants, line: Line, *, held: Mapping[TenantId, Resources]
) -> Allowance:
    """Return what plans and pauses leave to those in line, by what tenants hold."""
    return Allowance(_left(tenants, line, held), await look.line.paused())


async def snapshot(
    look: Look,
    line: Line,
    allowed: Allowance,
    *,
    held: Mapping[TenantId, Resources],
    averages: Mapping[TenantId, Average],
    heads_max: int,
    node_silence_max: timedelta,
    ends: Ends,
    soonest_max: int,
) -> Snapshot:
    """Return the line, what tenants hold and held, and the nodes; nobody is kept from any.

    When what runs will be over is a row for each of it, so no more is looked at than `ends` says.
    """
    most = soonest_max if ends is Ends.SOONEST else None
    holdings = None if ends is Ends.NONE else await look.attempts.holdings(soonest=most)
    is_cut = holdings is not None and len(holdings) == most
    # After the holdings: what ended in between is then booked no more, instead of without an end.
    nodes = await look.nodes.at_work(silence_max=node_silence_max)
    capacity = sum((node.capacity for node in nodes), Resources())
    shares = Shares(capacity, held, averages)
    ends_known_to = _last_end(holdings or ()) if is_cut else None
    return Snapshot(
        line, nodes, shares, allowed.left, heads_max, allowed.paused, holdings, ends_known_to
    )


def _last_end(holdings: Iterable[Holding]) -> timedelta:
    ends = (each.ends_in for each in holdings if each.ends_in is not None)
    return max(ends, default=timedelta(0))


def _left(
    tenants: Tenants, line: Line, held: Mapping[TenantId, Resources]
) -> Mapping[TenantId, Resources]:
    """Return what those may take who may not take everything.

    True until the end of a transaction that holds the scheduling lease: only its holder gives
    capacity, and an end gives it back.
    """
    found = {
        name: each.left(held.get(name, Resources())) for name, each in tenants.bounded().items()
    }
    left = {name: each for name, each in found.items() if each is not None}
    # Who came in line after this question came through the gateway just now.
    waiting = [] if tenants.is_whole else line.tenants()
    return left | dict.fromkeys(tenants.missing(waiting), Resources())
