"""Look at all that a decision on the line is made of."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Protocol

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.plan import Snapshot
from services.scheduler.use_cases.ports import Bookings, NodesAtWork, SeenLine, Tenants


class Look(Protocol):
    """What a snapshot is read from: a transaction, or reads that each stand alone."""

    @property
    def attempts(self) -> Bookings:
        """Return what runs."""
        ...

    @property
    def nodes(self) -> NodesAtWork:
        """Return the machines."""
        ...

    @property
    def line(self) -> SeenLine:
        """Return who waits."""
        ...


async def snapshot(
    look: Look,
    tenants: Tenants,
    *,
    at: datetime,
    heads_max: int,
    node_silence_max: timedelta,
    with_ends: bool = False,
) -> Snapshot:
    """Return the first `heads_max` of each kind, and what they wait for; nobody is kept from it.

    When what runs will be over is told `with_ends`, and where somebody may pass somebody.
    """
    left = await _left(look, tenants)
    heads = await look.line.heads(at=at, silence_max=node_silence_max, left=left, limit=heads_max)
    may_pass = sum(head.kind is OwnerKind.JOB for head in heads) > 1
    holdings = await look.attempts.holdings() if may_pass or with_ends else ()
    # After the holdings: what ended in between is then booked no more, instead of without an end.
    nodes = await look.nodes.at_work(silence_max=node_silence_max)
    return Snapshot(heads, nodes, left, holdings)


async def _left(look: Look, tenants: Tenants) -> Mapping[TenantId, Resources]:
    """Return what tenants may take that may not take everything.

    True until the end of a transaction that holds the scheduling lease: only its holder gives
    capacity, and an end gives it back.
    """
    bounded = tenants.bounded()
    booked = await look.attempts.booked(list(bounded)) if bounded else {}
    found = {name: each.left(booked.get(name, Resources())) for name, each in bounded.items()}
    left = {name: each for name, each in found.items() if each is not None}
    # Who comes in line after this question has come through the gateway just now.
    waiting = [] if tenants.is_whole else await look.line.tenants()
    return left | dict.fromkeys(tenants.missing(waiting), Resources())
