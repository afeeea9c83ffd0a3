"""Page through a tenant's models."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.model_registry.domain.model import Model
from services.model_registry.use_cases.ports import Page, UnitOfWork


@dataclass(frozen=True, slots=True)
class ListModels:
    """Show the models that follow a name, by name; the empty name precedes all."""

    unit_of_work: UnitOfWork

    async def __call__(self, tenant: TenantId, *, after: str, size: int) -> Page[Model]:
        """Return at most `size` models."""
        async with self.unit_of_work(tenant) as tx:
            return await tx.models.after(after, size=size)
