"""A job's place in line, told from counts: nobody walks through all who wait to tell it.

Jobs of paused queues, and those that wait for others, are before nobody: their turns can't come.
Those that pause before a retry count, as their turns come by themselves.

Of its own tenant's jobs those are before it that have a larger priority, or came first. Others'
take turns with them by share: as many of another tenant are before it as get theirs until its own
tenant's share is as large as it will be at its turn, if they all asked for as much as it does.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.chassis.tenancy import TenantId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.shares import Shares


@dataclass(frozen=True, slots=True)
class Standing:
    """How many jobs stand before one, and beside it."""

    above_count: int = 0
    """Of a larger priority, all tenants'."""
    own_count: int = 0
    """Of its priority, before it, its own tenant's."""
    others: Mapping[TenantId, int] = field(default_factory=dict)
    """Of its priority, other tenants', wherever they stand."""
    alike_count: int = 0
    """Of its shape, before it."""

    def jobs_before(self, tenant: TenantId, resources: Resources, shares: Shares) -> int:
        """Return about how many have their turns before a job that asks for this."""
        at_its_turn = shares.of(tenant, more=resources * self.own_count)
        each = shares.of(tenant, more=resources * (self.own_count + 1)) - at_its_turn
        return (
            self.above_count
            + self.own_count
            + sum(
                min(count, _turns(at_its_turn - shares.of(other), each=each))
                for other, count in self.others.items()
            )
        )


def _turns(less: float, *, each: float) -> int:
    """Return how many turns make up for a share that is less by so much."""
    if less <= 0:
        return 0
    return math.ceil(less / each) if each else sys.maxsize
