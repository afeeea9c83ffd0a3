"""Look at all that a decision on the line is made of."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol

from services.chassis.tenancy import TenantId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.line import Line
from services.scheduler.domain.scheduling.plan import Snapshot
from services.scheduler.domain.scheduling.shares import Average, Shares
from services.scheduler.use_cases.ports import Bookings, NodesAtWork, SeenLine, Tenants


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


async def snapshot(
    look: Look,
    tenants: Tenants,
    line: Line,
    *,
    held: Mapping[TenantId, Resources],
    averages: Mapping[TenantId, Average],
    heads_max: int,
    node_silence_max: timedelta,
    with_ends: bool,
) -> Snapshot:
    """Return the line, what tenants hold and held, and the nodes; nobody is kept from any.

    When what runs will be over is looked at `with_ends` only: that is a row for each of it.
    """
    holdings = await look.attempts.holdings() if with_ends else None
    # After the holdings: what ended in between is then booked no more, instead of without an end.
    nodes = await look.nodes.at_work(silence_max=node_silence_max)
    capacity = sum((node.capacity for node in nodes), Resources())
    shares = Shares(capacity, held, averages)
    left, paused = _left(tenants, line, held), await look.line.paused()
    return Snapshot(line, nodes, shares, left, heads_max, paused, holdings)


def _left(
    tenants: Tenants, line: Line, held: Mapping[TenantId, Resources]
) -> Mapping[TenantId, Resources]:
    """Return what tenants may take that may not take everything.

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
