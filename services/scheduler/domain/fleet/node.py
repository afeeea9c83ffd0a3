"""A node: a machine that runs containers, and how much of it is taken.

Owns: capacity and its booking. Always holds: what is booked is the sum of the node's open attempts.
A node that comes back smaller keeps its attempts; it has nothing free until enough have ended.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources


@dataclass(frozen=True, slots=True)
class Node:
    """A machine with its capacity, what is used of it, and its last sign of life."""

    id: NodeId
    capacity: Resources
    used: Resources
    heartbeat_at: datetime

    @property
    def free(self) -> Resources:
        """Return what could still be booked."""
        return Resources(
            max(0, self.capacity.cpu_millicores - self.used.cpu_millicores),
            max(0, self.capacity.memory_bytes - self.used.memory_bytes),
            max(0, self.capacity.gpu_count - self.used.gpu_count),
        )

    def booked(self, resources: Resources) -> "Node":
        """Return the node with this much less free; the caller has checked that it fits."""
        assert resources.fits_in(self.free), f"overbooked {self.id}"
        return replace(self, used=self.used + resources)
