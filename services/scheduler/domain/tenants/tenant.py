"""Tenants as their owner has told them: a picture in memory, whole once it has caught up.

Owns: that a lower version never replaces a higher one, and what counts while nothing is known: a
tenant whose event has not come yet is active and has no limits of its own, since its callers come
through the gateway, which knows it (ADR-0017). But while the picture may lack some, what waits of
an unknown tenant is not admitted, and says so (ADR-0021).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from services.chassis.errors import InvalidArgument, TenantSuspended
from services.chassis.tenancy import TenantId
from services.scheduler.domain.deployments.replica import Replica, ReplicaState
from services.scheduler.domain.fleet.reach import FleetDoors
from services.scheduler.domain.jobs.job import Job, JobState
from services.scheduler.domain.queues.queue import Pause
from services.scheduler.domain.resources import Resources, amount_in_words

_NEVER: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much a tenant may have; None leaves it to this service's setting."""

    queued_jobs_max: int | None = None
    replicas_max: int | None = None
    priority_max: int | None = None
    running_max: Resources | None = None
    """What all that runs may take together, jobs and replicas."""

    def check_resources(self, resources: Resources, *, field: str) -> None:
        """Raise InvalidArgument naming `field` for what could never run in this plan."""
        if self.running_max is None:
            return
        most_of = self.running_max.amounts()
        for name, amount in resources.amounts().items():
            if amount > most_of[name]:
                raise InvalidArgument(
                    f"{field}.{name}",
                    f"{amount_in_words(name, amount)} asked for, and this tenant's plan lets"
                    f" at most {amount_in_words(name, most_of[name])} run together",
                )

    def check_together(self, resources: Resources, *, count: int, field: str) -> None:
        """Raise InvalidArgument naming `field` for so many at once that could never run."""
        if self.running_max is None:
            return
        most_of = self.running_max.amounts()
        for name, amount in (resources * count).amounts().items():
            if amount > most_of[name]:
                raise InvalidArgument(
                    field,
                    f"{count} of them ask for {name} {amount_in_words(name, amount)} together, and"
                    f" this tenant's plan lets at most {amount_in_words(name, most_of[name])} run"
                    " together",
                )

    def check_priority(self, priority: int, *, field: str) -> None:
        """Raise InvalidArgument naming `field` for a priority above the plan's."""
        if self.priority_max is not None and priority > self.priority_max:
            raise InvalidArgument(
                field,
                f"must be at most {self.priority_max} in this tenant's plan;"
                f" {priority} was asked for",
            )


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as of its newest event."""

    id: TenantId
    version: int = 0
    is_suspended: bool = False
    is_purged: bool = False
    """Nothing of it may be left; it is suspended, too."""
    reason: str = ""
    changed_at: datetime = _NEVER
    plan: Plan = field(default_factory=Plan)
    is_known: bool = True
    """Whether no event of it can have been missed; else nothing of it is admitted."""

    @property
    def why_waiting(self) -> str:
        """Say why nothing of it is admitted; nothing when something may be."""
        if self.is_suspended:
            return f"the tenant is suspended: {self.reason}"
        if not self.is_known:
            return "the scheduler does not know yet whether the tenant is suspended"
        return ""

    def check_active(self) -> None:
        """Raise TenantSuspended unless it may start something."""
        if self.is_suspended:
            raise TenantSuspended(self.id, reason=self.reason)

    def left(self, booked: Resources) -> Resources | None:
        """Return what it may take besides what it has; None: whatever there is."""
        if self.is_suspended:
            return Resources()
        return None if self.plan.running_max is None else self.plan.running_max.less(booked)

    def job_shown(
        self, job: Job, *, booked: Resources, doors: FleetDoors, pause: Pause | None = None
    ) -> Job:
        """Return a job as its tenant sees it: one in line knows what it waits for.

        `pause` is its queue's.
        """
        if job.state is not JobState.QUEUED:
            return job
        if why := self.why_waiting or (pause.why_waiting if pause is not None else ""):
            return replace(job, reason=why)
        if job.needs:
            return job
        left = self.left(booked)
        if left is not None and not job.spec.total_resources.fits_in(left):
            return replace(job, reason="what runs takes all that the tenant's plan lets it take")
        return replace(job, reason=doors.why_waiting or job.reason)

    def replica_shown(self, replica: Replica, *, doors: FleetDoors) -> Replica:
        """Return a replica as its tenant sees it: one in line knows what it waits for."""
        if replica.state is not ReplicaState.QUEUED:
            return replica
        why = self.why_waiting or doors.why_waiting
        return replace(replica, reason=why or replica.reason)


@dataclass(slots=True)
class TenantTable:
    """All tenants that were told of."""

    is_caught_up: bool = True
    """Whether all that the topic told at the start is here; before that nothing is admitted."""
    is_whole: bool = True
    """Whether a tenant that is not here is a new one, and not one that was missed."""
    _tenants: dict[TenantId, Tenant] = field(default_factory=dict)

    def apply(self, tenant: Tenant) -> bool:
        """Take over a tenant; False when this version, or a later one, is known."""
        if tenant.version <= self.get(tenant.id).version:
            return False
        self._tenants[tenant.id] = tenant
        return True

    def get(self, tenant: TenantId) -> Tenant:
        """Return a tenant; one that nobody has told of yet is active."""
        found = self._tenants.get(tenant)
        if found is None:
            return Tenant(tenant, is_known=self.is_caught_up and self.is_whole)
        return found if self.is_caught_up else replace(found, is_known=False)

    def catch_up(self) -> None:
        """Know from now on that all the topic's entries are here."""
        self.is_caught_up = True

    def complete(self) -> None:
        """Know from now on that none was missed: the owner's list has been read."""
        self.is_whole = True

    def missing(self, tenants: Iterable[TenantId]) -> Sequence[TenantId]:
        """Return those that may have been missed."""
        return [] if self.is_whole else [each for each in tenants if each not in self._tenants]

    def suspended(self) -> Mapping[TenantId, Tenant]:
        """Return those whose work must not run."""
        return {name: each for name, each in self._tenants.items() if each.is_suspended}

    def purged(self) -> Sequence[TenantId]:
        """Return those of which nothing may be left."""
        return [name for name, each in self._tenants.items() if each.is_purged]

    def bounded(self) -> Mapping[TenantId, Tenant]:
        """Return those that may not take whatever there is."""
        return {
            name: each
            for name, each in self._tenants.items()
            if each.is_suspended or each.plan.running_max is not None
        }
