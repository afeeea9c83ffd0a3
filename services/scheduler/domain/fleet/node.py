"""A node: a machine that runs containers, how much of it is taken, by whom, and whether it is open.

Owns: capacity and its booking, whose work may come beside whose, cordon, drain and loss. Always
holds: what is booked is the sum of the node's open attempts. A node that comes back smaller keeps
its attempts; it has nothing free until enough have ended. One whose container runtime is away keeps
them too, and has nothing free until it is back; a cordoned one has nothing free until it is
uncordoned, a lost one until its runner is back and has tidied it. A node that is drained is
cordoned. One that mixes no tenants is that tenant's whose attempts are open on it (ADR-0032).
"""

from dataclasses import dataclass, replace
from datetime import datetime

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources


@dataclass(frozen=True, slots=True)
class HeldWork:
    """That a node has open attempts of a tenant, for owners of a kind."""

    tenant: TenantId
    kind: OwnerKind


@dataclass(frozen=True, slots=True)
class Node:
    """A machine with its capacity, what is used of it, and its signs of life."""

    id: NodeId
    capacity: Resources
    used: Resources
    heartbeat_at: datetime
    """The runner's last sign of life."""
    runtime: str
    """Which container runtime it has; empty before its runner has said so."""
    runtime_down_since: datetime | None
    """When its runner first found that the runtime does not answer; None while it does."""
    cordoned_at: datetime | None = None
    """Since when it gets nothing new."""
    draining_since: datetime | None = None
    """Since when what runs on it is moved off."""
    lost_at: datetime | None = None
    """When it was given up because nobody held its lease; None again once it is back and tidy."""
    allows_mixed_tenants: bool = True
    """Whether it takes several tenants' work at a time; else one tenant's, and others' waits."""
    holds: frozenset[HeldWork] = frozenset()
    """Whose work it has, where that matters: told by its open attempts when it is read to place
    something there, and stored nowhere."""

    @property
    def is_open(self) -> bool:
        """Tell whether it takes anything new, if there is room."""
        return not (self.runtime_down_since or self.cordoned_at or self.lost_at)

    @property
    def free(self) -> Resources:
        """Return what could still be booked."""
        if not self.is_open:
            return Resources()
        return Resources(
            max(0, self.capacity.cpu_millicores - self.used.cpu_millicores),
            max(0, self.capacity.memory_bytes - self.used.memory_bytes),
            max(0, self.capacity.gpu_count - self.used.gpu_count),
        )

    def cordoned(self, *, at: datetime) -> "Node":
        """Return the node closed to what is new."""
        return replace(self, cordoned_at=self.cordoned_at or at)

    def drained(self, *, at: datetime) -> "Node":
        """Return the node cordoned, and to be emptied."""
        return replace(self.cordoned(at=at), draining_since=self.draining_since or at)

    def uncordoned(self) -> "Node":
        """Return the node open; what was asked to leave it goes on leaving."""
        return replace(self, cordoned_at=None, draining_since=None)

    def lost(self, *, at: datetime) -> "Node":
        """Return the node given up: whatever runs there, nobody hears of it."""
        return replace(self, lost_at=self.lost_at or at)

    def returned(self) -> "Node":
        """Return the node as one that takes work; nothing of ended attempts runs on it."""
        return replace(self, lost_at=None)

    def takes(self, tenant: TenantId) -> bool:
        """Tell whether a tenant's work may come beside what is there now."""
        return self.allows_mixed_tenants or all(held.tenant == tenant for held in self.holds)

    def has_room_for(self, resources: Resources, *, of: TenantId) -> bool:
        """Tell whether this much of a tenant's work may come now."""
        return resources.fits_in(self.free) and self.takes(of)

    def will_take(self, tenant: TenantId) -> bool:
        """Tell whether a tenant's work may come once the jobs of now are over.

        Others' replicas may stay for ever.
        """
        return self.allows_mixed_tenants or all(
            held.tenant == tenant or held.kind is OwnerKind.JOB for held in self.holds
        )

    def booked(self, resources: Resources, *, by: HeldWork) -> "Node":
        """Return the node with this work there; the caller has checked that it fits."""
        assert resources.fits_in(self.free), f"overbooked {self.id}"
        assert self.takes(by.tenant), f"{self.id} is another tenant's"
        holds = self.holds if self.allows_mixed_tenants else self.holds | {by}
        return replace(self, used=self.used + resources, holds=holds)


def lease_name(node_id: NodeId) -> str:
    """Return the name of the lease that a node's runner holds."""
    return f"node/{node_id}"
