"""How much of the yard each tenant has had lately: whose turn it is among equal priorities.

Owns: what a share is. A tenant's share is what it holds now and what it held lately on average, of
all that there is, in the resource where that is most (dominant resource fairness, Ghodsi et al.,
NSDI'11, with a memory). The average is weighted exponentially: what was held one half-life ago
counts half. It lasts without a history of attempts, since between two looks it moves towards what
is held by a known rate.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from services.chassis.tenancy import TenantId
from services.scheduler.domain.resources import Resources

_NOTHING: Final = Resources()
_FADED: Final = (1.0, float(1 << 20), 1e-3)
"""A millicore, a MiB, a thousandth of a GPU: who has had less lately is as one who is new."""


@dataclass(frozen=True, slots=True)
class Average:
    """What was held lately; amounts as in `Resources`, and fractions of them."""

    cpu_millicores: float = 0.0
    memory_bytes: float = 0.0
    gpu_count: float = 0.0

    def towards(self, held: Resources, *, share: float) -> "Average":
        """Return it once `share` (0..1) of the way to what is held is gone."""
        return Average(
            self.cpu_millicores + (held.cpu_millicores - self.cpu_millicores) * share,
            self.memory_bytes + (held.memory_bytes - self.memory_bytes) * share,
            self.gpu_count + (held.gpu_count - self.gpu_count) * share,
        )

    @property
    def has_faded(self) -> bool:
        """Tell whether it is as if there had been nothing."""
        amounts = (self.cpu_millicores, self.memory_bytes, self.gpu_count)
        return all(amount < least for amount, least in zip(amounts, _FADED, strict=True))


@dataclass(frozen=True, slots=True)
class Shares:
    """What tenants hold and held, of what there is."""

    capacity: Resources = _NOTHING
    held: Mapping[TenantId, Resources] = field(default_factory=dict)
    averages: Mapping[TenantId, Average] = field(default_factory=dict)

    def of(self, tenant: TenantId, *, more: Resources = _NOTHING) -> float:
        """Return a tenant's dominant share, 0 for who has had nothing; `more` is given to it."""
        held = self.held.get(tenant, _NOTHING)
        average = self.averages.get(tenant, Average())
        there = self.capacity
        return max(
            _part(
                held.cpu_millicores + more.cpu_millicores,
                average.cpu_millicores,
                there.cpu_millicores,
            ),
            _part(held.memory_bytes + more.memory_bytes, average.memory_bytes, there.memory_bytes),
            _part(held.gpu_count + more.gpu_count, average.gpu_count, there.gpu_count),
        )


def _part(held: int, average: float, there: int) -> float:
    return (held + average) / there if there else 0.0


@dataclass(frozen=True, slots=True)
class Averages:
    """All tenants' averages, as of one look; clocks of different processes may tell it."""

    by_tenant: Mapping[TenantId, Average] = field(default_factory=dict)
    at: datetime | None = None
    """When that was so; None: nobody has ever looked."""

    def after(
        self,
        held: Mapping[TenantId, Resources],
        *,
        at: datetime,
        half_life: timedelta,
        gone: Collection[TenantId],
    ) -> "Averages":
        """Return them at a later look, if since then what is held now was; without who is gone."""
        since = self.at or at
        share = 1 - 0.5 ** (max(timedelta(0), at - since) / half_life)
        moved = {
            tenant: self.by_tenant.get(tenant, Average()).towards(
                held.get(tenant, _NOTHING), share=share
            )
            for tenant in sorted((self.by_tenant.keys() | held.keys()) - set(gone))
        }
        # Who holds something is at the beginning of a long way, of which a look is a little step.
        kept = {
            tenant: each for tenant, each in moved.items() if tenant in held or not each.has_faded
        }
        return Averages(kept, max(since, at))
