"""A node: a machine that runs containers, and how much of it is taken.

Owns: capacity and its booking. Always holds: what is booked is the sum of the node's open attempts.
A node that comes back smaller keeps its attempts; it has nothing free until enough have ended. A
node whose container runtime is away keeps them too, and has nothing free until it is back.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources


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

    @property
    def free(self) -> Resources:
        """Return what could still be booked."""
        if self.runtime_down_since is not None:
            return Resources()
        return Resources(
            max(0, self.capacity.cpu_millicores - self.used.cpu_millicores),
            max(0, self.capacity.memory_bytes - self.used.memory_bytes),
            max(0, self.capacity.gpu_count - self.used.gpu_count),
        )

    def booked(self, resources: Resources) -> "Node":
        """Return the node with this much less free; the caller has checked that it fits."""
        assert resources.fits_in(self.free), f"overbooked {self.id}"
        return replace(self, used=self.used + resources)
