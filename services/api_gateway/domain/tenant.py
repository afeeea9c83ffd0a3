"""A tenant: whether it may change anything, how much it may have, and its end.

Owns: the state table and the one door through which a tenant moves, and the bounds of a plan. What
a state means for things that run is for their owners, who read `version` and drop lower ones.
Always holds: `version` grows by one with each change, and by nothing else; `purge_at` is set while
it is DELETING, and only then.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from services.chassis.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    TenantSuspended,
)
from services.chassis.tenancy import TenantId

REASON_CHARACTERS_MAX: Final = 256
GRACE_DEFAULT: Final = timedelta(days=7)
GRACE_MAX: Final = timedelta(days=90)
BOUNDS: Final[Mapping[str, tuple[int, int]]] = {
    "queued_jobs_max": (0, 1_000_000),
    "replicas_max": (0, 1_000_000),
    "priority_max": (0, 100),
    "requests_max": (1, 1_000_000),  # none at all is what suspending is for
    "running_cpu_millicores_max": (0, 1_000_000_000),
    "running_memory_bytes_max": (0, 2**53 - 1),  # exact for every reader of JSON
    "running_gpu_count_max": (0, 1_000_000),
}
"""Least and most of each of a plan's limits."""


class TenantState(StrEnum):
    """Whether a tenant may change anything, or is there at all."""

    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    DELETING = "DELETING"
    """As SUSPENDED until `purge_at`; until then it can be resumed."""
    PURGED = "PURGED"
    """Only its name is left, so that nobody gets it again; all owners delete what was its own."""
    UNKNOWN = "UNKNOWN"
    """Never stored: a newer release's state. As SUSPENDED, and nothing of it changes here."""

    @classmethod
    def stored(cls, text: str) -> "TenantState":
        """Return the state that was stored under this name."""
        return next((state for state in cls if state.value == text), cls.UNKNOWN)


TRANSITIONS: Final[Mapping[TenantState, frozenset[TenantState]]] = {
    TenantState.ACTIVE: frozenset({TenantState.SUSPENDED, TenantState.DELETING}),
    TenantState.SUSPENDED: frozenset({TenantState.ACTIVE, TenantState.DELETING}),
    TenantState.DELETING: frozenset({TenantState.ACTIVE, TenantState.PURGED}),
    TenantState.PURGED: frozenset(),
    TenantState.UNKNOWN: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much a tenant may have; None leaves it to the setting of the service that counts it."""

    queued_jobs_max: int | None = None
    replicas_max: int | None = None
    priority_max: int | None = None
    """Largest priority of a job."""
    requests_max: int | None = None
    """Requests in a window, over all gateways."""
    running_cpu_millicores_max: int | None = None
    """Of all that runs, jobs and replicas; the same for memory and GPUs."""
    running_memory_bytes_max: int | None = None
    running_gpu_count_max: int | None = None

    def check(self) -> None:
        """Raise InvalidArgument naming the first field that is out of bounds."""
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise InvalidArgument(name, f"must be between {least} and {most}")


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as its administrator sees it; each move returns the new value."""

    id: TenantId
    state: TenantState
    version: int
    reason: str
    """Why it is in this state."""
    created_at: datetime
    changed_at: datetime
    plan: Plan = field(default_factory=Plan)
    purge_at: datetime | None = None
    """From when on nothing brings it back."""

    @classmethod
    def created(cls, tenant: TenantId, plan: Plan, *, at: datetime) -> "Tenant":
        """Return a new tenant; raises InvalidArgument."""
        plan.check()
        return cls(
            id=tenant,
            state=TenantState.ACTIVE,
            version=1,
            reason="",
            created_at=at,
            changed_at=at,
            plan=plan,
        )

    @property
    def is_active(self) -> bool:
        """Tell whether it may change anything."""
        return self.state is TenantState.ACTIVE

    @property
    def is_known(self) -> bool:
        """Tell whether this release knows what its state means."""
        return self.state is not TenantState.UNKNOWN

    @property
    def is_purged(self) -> bool:
        """Tell whether nothing is left of it but its name."""
        return self.state is TenantState.PURGED

    def is_gone(self, *, at: datetime) -> bool:
        """Tell whether its grace is over, be it PURGED already or not."""
        return self.is_purged or (self.purge_at is not None and self.purge_at <= at)

    def name_taken(self, *, at: datetime) -> AlreadyExists:
        """Return what a tenant that should be called so is refused for."""
        if not self.is_gone(at=at):
            return AlreadyExists("tenant", self.id)
        return AlreadyExists.worded(
            f"tenant {self.id} was deleted, and a deleted tenant's name is not given again",
            detail={"kind": "tenant", "id": self.id},
            retry_after=None,
        )

    def check_kept(self) -> None:
        """Raise FailedPrecondition when nothing is left of it but its name."""
        if self.is_purged:
            raise FailedPrecondition(
                f"tenant {self.id} was deleted",
                detail={"kind": "tenant", "id": self.id, "state": self.state},
            )

    def check_active(self) -> None:
        """Raise TenantSuspended unless it may change things."""
        if not self.is_active:
            raise TenantSuspended(self.id, reason=self.reason)

    def suspended(self, *, reason: str, at: datetime) -> "Tenant":
        """Take away all but reading; again: no change, the first reason stands."""
        if not 0 < len(reason) <= REASON_CHARACTERS_MAX or not reason.isprintable():
            raise InvalidArgument(
                "reason", f"must have 1 to {REASON_CHARACTERS_MAX} printable characters"
            )
        if self.state is TenantState.SUSPENDED:
            return self
        return self.move(TenantState.SUSPENDED, reason=reason, at=at)

    def resumed(self, *, at: datetime) -> "Tenant":
        """Give it back what it may; again: no change."""
        return self if self.is_active else self.move(TenantState.ACTIVE, reason="", at=at)

    def deleted(self, *, grace: timedelta, at: datetime) -> "Tenant":
        """Let nothing of it be left after `grace`; raises InvalidArgument.

        Again: the earlier end counts, so that a repeated request puts nothing off.
        """
        if not timedelta(0) <= grace <= GRACE_MAX:
            raise InvalidArgument("grace", f"must be between 0 and {GRACE_MAX.days} days")
        if self.is_purged:
            return self
        if self.purge_at is None:
            return self.move(
                TenantState.DELETING, reason="it is being deleted", at=at, purge_at=at + grace
            )
        return self if self.purge_at <= at + grace else self._changed(at, purge_at=at + grace)

    def purged(self, *, at: datetime) -> "Tenant":
        """Keep its name alone, once its grace is over."""
        assert self.purge_at is not None, "only what is DELETING is purged"
        assert self.purge_at <= at, "the grace is kept"
        return replace(self.move(TenantState.PURGED, reason="", at=at), plan=Plan())

    def planned(self, plan: Plan, *, at: datetime) -> "Tenant":
        """Give it another plan, whatever its state while it is kept; the same one: no change."""
        plan.check()
        self.check_kept()
        return self if plan == self.plan else self._changed(at, plan=plan)

    def move(
        self, to: TenantState, *, reason: str, at: datetime, purge_at: datetime | None = None
    ) -> "Tenant":
        """Move by the table, and by nothing else; raises FailedPrecondition."""
        is_too_late = to is not TenantState.PURGED and self.is_gone(at=at)
        if to not in TRANSITIONS[self.state] or is_too_late:
            raise FailedPrecondition(
                f"tenant {self.id} is {self.state}; it can't become {to}",
                detail={"kind": "tenant", "id": self.id, "state": self.state, "to": to},
            )
        assert (purge_at is not None) == (to is TenantState.DELETING), "an end, and only then"
        return self._changed(at, state=to, reason=reason, purge_at=purge_at)

    def _changed(self, at: datetime, **changes: Any) -> "Tenant":
        if not self.is_known:
            raise FailedPrecondition(
                f"tenant {self.id} is in a state that this release does not know",
                detail={"kind": "tenant", "id": self.id, "state": self.state},
            )
        return replace(self, version=self.version + 1, changed_at=at, **changes)
