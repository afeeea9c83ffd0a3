"""What a tenant may do now, whatever credential its callers come with.

Late actor: a tenant that is remembered and was suspended meanwhile; refused by the age that
`Recent` allows, so a suspension acts on every replica within 2 s, and at once where it was asked
for: `learn` puts it in, and a read that was under way does not take it out again. A key that was
made while its tenant was purged opens nothing: the tenant is none any more.
"""

from dataclasses import dataclass, field

from services.api_gateway.domain.tenant import Tenant
from services.api_gateway.use_cases.ports import TenantStore
from services.api_gateway.use_cases.recent import Recent
from services.chassis.clock import Clock
from services.chassis.errors import Unauthenticated
from services.chassis.tenancy import TenantId


@dataclass(slots=True)
class TenantStanding:
    """Tell how a tenant stands, or stood a moment ago."""

    store: TenantStore
    clock: Clock
    tenants: Recent[TenantId, Tenant] = field(init=False)

    def __post_init__(self) -> None:
        """Remember what the store says."""
        self.tenants = Recent(self.store.find, self.clock, name="the directory of tenants")

    async def __call__(self, tenant: TenantId) -> Tenant:
        """Return the tenant; raises Unauthenticated for one that is none, or none any more."""
        found = await self.tenants(tenant)
        if found is None or found.is_gone(at=self.clock.now()):
            raise Unauthenticated
        return found

    def learn(self, tenant: Tenant) -> None:
        """Know a change at once that this process has made; a later one may be known by now."""
        known = self.tenants.peek(tenant.id)
        if known is None or known.version < tenant.version:
            self.tenants.put(tenant.id, tenant)
