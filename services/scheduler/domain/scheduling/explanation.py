"""Why a job or a replica waits: the one thing that holds it, what would help, and its start.

Owns: the order in which causes count, and what is told of each. What is further on does not matter
yet: who is suspended is told of that, not of the nodes. Names no other tenant, job or node; that
the room of the best node and the instant tell something of others' work can't be helped, so the
instant is told to the minute.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.deployments.deployment import Deployment
from services.scheduler.domain.deployments.replica import Replica, ReplicaState
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.fleet.reach import FleetDoors
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.queues.queue import Pause
from services.scheduler.domain.resources import Resources, amount_in_words
from services.scheduler.domain.scheduling.causes import Cause, Hold
from services.scheduler.domain.scheduling.forecast import Basis, Forecast, forecast
from services.scheduler.domain.scheduling.line import Head
from services.scheduler.domain.scheduling.plan import Decisions, Snapshot
from services.scheduler.domain.tenants.tenant import Tenant

_MINUTE: Final = timedelta(minutes=1)
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Reason:
    """What holds somebody, and what would help."""

    cause: Cause
    because: str
    """The cause in words, with what differs from case to case."""
    starts_in: timedelta | None = None
    """If what runs ends when that is expected, and nobody comes between; None: nobody can tell."""
    basis: Basis | None = None
    """What tells when that ends; None: nobody can tell when it starts."""

    @property
    def hold(self) -> Hold:
        """Return the word for what holds it."""
        return self.cause.hold

    @property
    def helped_by(self) -> str:
        """Return what would help; nothing where nothing holds it."""
        return self.cause.helped_by

    def start_at(self, told_at: datetime) -> datetime | None:
        """Return about when it starts, to the next full minute; None: nobody can tell."""
        if self.starts_in is None:
            return None
        start_at = told_at + self.starts_in
        past = timedelta(seconds=start_at.second, microseconds=start_at.microsecond)
        return start_at + -past % _MINUTE


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job is where it is."""

    job: Job
    reason: Reason
    at: datetime
    """When that was so."""
    jobs_before: int = 0
    """Its tenant's, and about as many of others' as have their turns before, whether they could run
    or not; 0 for one that is not in line."""

    @property
    def estimated_start_at(self) -> datetime | None:
        """Return about when it starts, to the next full minute; None: nobody can tell."""
        return self.reason.start_at(self.at)


@dataclass(frozen=True, slots=True)
class DeploymentExplanation:
    """Why a deployment's replicas wait that do."""

    deployment: Deployment
    waiting_count: int
    reason: Reason
    """Of the first one; where none waits, why the deployment is where it is."""
    at: datetime

    @property
    def estimated_start_at(self) -> datetime | None:
        """Return about when the first one starts, as a job's."""
        return self.reason.start_at(self.at)


def reason_by_itself(
    job: Job, tenant: Tenant, *, pause: Pause | None, booked: Resources, at: datetime
) -> Reason | None:
    """Return what holds a job in line whatever line and nodes are like; None: nothing of that.

    `pause` is its queue's, `booked` what runs of its tenant.
    """
    if tenant.why_waiting:
        return _by_tenant(tenant)
    if pause is not None:
        return Reason(Cause.PAUSED, pause.why_waiting)
    if job.needs:
        return Reason(Cause.DEPENDENCY, job.reason)
    if job.pauses(at=at):
        told = f"{job.reason}; it is tried again from {job.retry_at:%Y-%m-%dT%H:%M:%SZ} on"
        return Reason(Cause.BACK_OFF, told)
    return _by_plan(tenant, job.spec.total_resources, booked)


def replica_by_itself(
    replicas: Sequence[Replica], tenant: Tenant, *, resources: Resources, booked: Resources
) -> Reason | None:
    """Return what holds the first of a deployment's replicas that wait; None: line or nodes do.

    `resources` are what each asks for, `booked` what runs of its tenant.
    """
    if tenant.why_waiting:
        return _by_tenant(tenant)
    if not any(replica.state is ReplicaState.QUEUED for replica in replicas):
        first = min(replicas, key=lambda replica: replica.restart_at or _NEVER)
        told = f"{first.reason}; it is tried again from {first.restart_at:%Y-%m-%dT%H:%M:%SZ} on"
        return Reason(Cause.BACK_OFF, told)
    return _by_plan(tenant, resources, booked)


def _by_tenant(tenant: Tenant) -> Reason:
    cause = Cause.SUSPENDED if tenant.is_suspended else Cause.NOT_HEARD_OF
    return Reason(cause, tenant.why_waiting)


def _by_plan(tenant: Tenant, resources: Resources, booked: Resources) -> Reason | None:
    left = tenant.left(booked)
    if left is None or resources.fits_in(left):
        return None
    short = _in_words(resources.less(left))
    told = f"what runs takes what the tenant's plan lets it take: it is short of {short}"
    return Reason(Cause.PLAN_USED_UP, told)


def reason_far_back(
    head: Head, seen: Snapshot, doors: FleetDoors, *, alike_count: int, does_any_end: bool
) -> Reason:
    """Return what holds one behind more of its own shape than a cycle places.

    Of the line nothing else is looked at, and nobody can tell when it starts.
    """
    if doors.why_waiting:
        return Reason(Cause.NODES_CLOSED, doors.why_waiting)
    if not _has_room(head, seen.nodes):
        return _no_room(head, seen, Forecast(None, is_cut=does_any_end))
    left = seen.left.get(head.tenant)
    if left is not None and not (head.total * (alike_count + 1)).fits_in(left):
        return _plan_taken(head)
    return Reason(Cause.BEFORE, "there is room, and those before it in line come first")


def reason_in_line(
    head: Head,
    seen: Snapshot,
    decisions: Decisions,
    doors: FleetDoors,
    *,
    is_certain: bool = True,
) -> Reason:
    """Return what holds one that is to be admitted as soon as there is room.

    Unless `is_certain` others stand in line that were not looked at: nobody tells it that it is its
    turn, nor when it starts. Nor is one told that whose start is too far off to be seen, or where
    nobody has looked at what ends.
    """
    told = Forecast(None, is_cut=True)
    is_seen = seen.holdings is not None and seen.line.find(head.id) is not None
    if is_certain and is_seen:
        told = forecast(head, seen, decisions)
    is_placed = any(each.head.id == head.id for each in decisions.placements)
    if doors.why_waiting:
        reason = Reason(Cause.NODES_CLOSED, doors.why_waiting)
    elif is_placed and is_certain:
        reason = Reason(Cause.ITS_TURN, Cause.ITS_TURN.meaning)
    elif is_placed or (head.shape not in decisions.refused and _has_room(head, seen.nodes)):
        reason = Reason(Cause.BEFORE, Cause.BEFORE.meaning)
    else:
        reason = _what_is_short(head, seen, decisions, told)
    return replace(reason, starts_in=told.starts_in, basis=told.basis)


def _what_is_short(head: Head, seen: Snapshot, decisions: Decisions, told: Forecast) -> Reason:
    """Return why a head was placed nowhere, by what there was before the plan and at its turn."""
    before_count = decisions.refused.get(head.shape, len(decisions.placements))
    at_its_turn = seen.with_placed(decisions.placements[:before_count])
    left = at_its_turn.left.get(head.tenant)
    if left is not None and not head.total.fits_in(left):
        return _plan_taken(head)
    if _has_room(head, at_its_turn.nodes):
        cause = Cause.KEPT if head.run_max is not None else Cause.KEPT_FOR_REPLICA
        return Reason(cause, cause.meaning)
    if at_its_turn is not seen and _has_room(head, seen.nodes):
        return Reason(Cause.TAKEN_BEFORE, Cause.TAKEN_BEFORE.meaning)
    return _no_room(head, seen, told)


def _no_room(head: Head, seen: Snapshot, told: Forecast) -> Reason:
    never = told.starts_in is None and not told.is_cut
    cause = Cause.NO_ROOM
    if never:
        cause = Cause.NO_ROOM_EVER if head.task_count == 1 else Cause.NO_ROOM_EVER_FOR_TASKS
    nor_later = ", and nothing that ends by itself makes more" if never else ""
    if head.task_count > 1 and (room := _room(head, seen.nodes)) > 0:
        because = f"there is room for {room} of its {head.task_count} tasks, which start together"
        return Reason(cause, because + nor_later)
    large = [node for node in seen.nodes if head.resources.fits_in(node.capacity)]
    lacks = [head.resources.less(node.free) for node in large if node.takes(head.tenant)]
    if not lacks:  # the nodes were looked at before, and some took something then
        closed = "no node that is large enough takes anything new"
        return Reason(Cause.NODES_CLOSED, closed if large else "no node is large enough")
    short = _in_words(min(lacks, key=_severity))
    which = "it" if head.task_count == 1 else f"any of its {head.task_count} tasks"
    because = f"no node has room for {which}: the best one is short of {short}"
    return Reason(cause, because + nor_later)


def _plan_taken(head: Head) -> Reason:
    before = "jobs" if head.kind is OwnerKind.JOB else "replicas"
    told = f"its tenant's {before} before it take what the plan lets it take"
    return Reason(Cause.PLAN_TAKEN, told)


def _has_room(head: Head, nodes: Iterable[Node]) -> bool:
    return _room(head, nodes) == head.task_count


def _room(head: Head, nodes: Iterable[Node]) -> int:
    """Return for how many of its tasks there is room."""
    room, most = 0, head.task_count
    for node in nodes:
        if node.takes(head.tenant):
            room += head.resources.count_in(node.free, most=most - room)
            if room == most:
                break
    return room


def _severity(short: Resources) -> tuple[int, int, int]:
    """Order what nodes lack, GPUs before all."""
    return (short.gpu_count, short.cpu_millicores, short.memory_bytes)


def _in_words(short: Resources) -> str:
    return ", ".join(
        f"{name} {amount_in_words(name, amount)}"
        for name, amount in short.amounts().items()
        if amount
    )
