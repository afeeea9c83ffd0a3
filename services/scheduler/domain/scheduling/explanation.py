"""Why a job waits: the one thing that holds it now, what would help, and by when it starts.

Owns: the order in which reasons count, and their words. What is further on does not matter yet: who
is suspended is told of that, not of the nodes. Says nothing of other tenants' work but how much of
it stands before, and names no node.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.fleet.reach import FleetDoors
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.resources import Resources, amount_in_words
from services.scheduler.domain.scheduling.forecast import starts_in
from services.scheduler.domain.scheduling.plan import Head, Snapshot, plan
from services.scheduler.domain.tenants.tenant import Tenant


class Hold(StrEnum):
    """What keeps a job from its start."""

    NONE = "NONE"
    """Nothing: it does not stand in line, or it is its turn."""
    TENANT = "TENANT"
    """Nothing of its tenant is admitted."""
    BACK_OFF = "BACK_OFF"
    """It failed, and pauses before it is tried again."""
    PLAN = "PLAN"
    """What runs of its tenant takes all that the plan lets it take."""
    NODES = "NODES"
    """No node that is large enough takes anything new of its tenant."""
    RESOURCES = "RESOURCES"
    """No node has room for it."""
    ORDER = "ORDER"
    """Those before it take the room that there is, or have it kept for them."""


@dataclass(frozen=True, slots=True)
class Reason:
    """What holds a job, and what would help."""

    hold: Hold
    because: str
    helped_by: str = ""
    """Empty where nothing holds it."""
    starts_in: timedelta | None = None
    """If all that runs does so to its limit, and nobody comes who goes before; None: nobody can
    tell."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job is where it is."""

    job: Job
    reason: Reason
    at: datetime
    """When that was so."""
    jobs_before: int = 0
    """All tenants' in line, whether they could run or not; 0 for one that is not in line."""

    @property
    def starts_by(self) -> datetime | None:
        """Return by when it starts; None: nobody can tell."""
        waits_for = self.reason.starts_in
        return None if waits_for is None else self.at + waits_for


def reason_by_itself(job: Job, tenant: Tenant, *, booked: Resources, at: datetime) -> Reason | None:
    """Return what holds a job in line whatever line and nodes are like; None: nothing of that.

    `booked` is what runs of its tenant.
    """
    if tenant.why_waiting:
        helped_by = (
            "that it is resumed" if tenant.is_suspended else "that it is read, which is soon"
        )
        return Reason(Hold.TENANT, tenant.why_waiting, helped_by)
    if job.retry_at is not None and job.retry_at > at:
        told = f"{job.reason}; it is tried again from {job.retry_at:%Y-%m-%dT%H:%M:%SZ} on"
        return Reason(Hold.BACK_OFF, told, "time alone")
    left = tenant.left(booked)
    if left is not None and not job.spec.resources.fits_in(left):
        short = _in_words(job.spec.resources.less(left))
        told = f"what runs takes what the tenant's plan lets it take: it is short of {short}"
        return Reason(Hold.PLAN, told, "the end of what the tenant runs, or a larger plan")
    return None


def reason_in_line(job: Job, seen: Snapshot, doors: FleetDoors) -> Reason:
    """Return what holds a job that is to be admitted as soon as there is room."""
    if doors.why_waiting:
        helped_by = "a node that takes work: back, uncordoned, empty or new"
        return Reason(Hold.NODES, doors.why_waiting, helped_by)
    head = next((each for each in seen.heads if each.id == job.id), None)
    if head is None:
        return Reason(Hold.ORDER, "many stand before it", "the start of those before it")
    decisions, latest = plan(seen), starts_in(head, seen)
    if any(placement.head.id == head.id for placement in decisions.placements):
        return Reason(Hold.NONE, "it is its turn", starts_in=latest)
    open_nodes = [node for node in seen.nodes if node.takes(head.tenant)]
    if any(head.resources.fits_in(node.free) for node in open_nodes):
        told = "those before it take the room that there is, or have it kept for them"
        helped_by = "the start of those before it, or a shorter run time limit"
        return Reason(Hold.ORDER, told, helped_by, latest)
    told = f"no node has room for it: the best one is short of {_least_short(head, open_nodes)}"
    helped_by = "the end of what runs" if latest is not None else "fewer replicas, or more nodes"
    return Reason(Hold.RESOURCES, told, helped_by, latest)


def _least_short(head: Head, nodes: Iterable[Node]) -> str:
    """Say what the node lacks that lacks least, GPUs before all."""
    lacks = [
        head.resources.less(node.free) for node in nodes if head.resources.fits_in(node.capacity)
    ]
    least = min(
        lacks,
        key=lambda each: (each.gpu_count, each.cpu_millicores, each.memory_bytes),
        default=head.resources,
    )
    return _in_words(least)


def _in_words(short: Resources) -> str:
    return ", ".join(
        f"{name} {amount_in_words(name, amount)}"
        for name, amount in short.amounts().items()
        if amount
    )
