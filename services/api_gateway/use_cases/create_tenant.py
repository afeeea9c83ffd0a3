"""Make a tenant with its first administrator key."""

from dataclasses import dataclass

from services.api_gateway.domain.scopes import ADMIN
from services.api_gateway.use_cases.manage_keys import NewKeys
from services.api_gateway.use_cases.ports import Directory
from services.chassis.tenancy import TenantId


@dataclass(frozen=True, slots=True)
class CreateTenant:
    """Make a tenant that does not exist yet, and a key that may do everything in it."""

    directory: Directory
    new_keys: NewKeys

    async def __call__(self, tenant: TenantId) -> str | None:
        """Return the key's text, or None when the tenant exists already."""
        key, text = self.new_keys.make(tenant, name="first", scopes=frozenset({ADMIN}))
        return text if await self.directory.add_tenant(tenant, key) else None
