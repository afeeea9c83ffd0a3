"""Show a model."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.model_registry.domain.model import Model
from services.model_registry.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class GetModel:
    """Show one model by name."""

    unit_of_work: UnitOfWork

    async def __call__(self, tenant: TenantId, name: str) -> Model:
        """Return the model. Raises NotFound."""
        async with self.unit_of_work.reading(tenant) as tx:
            return await tx.models.get(name)
