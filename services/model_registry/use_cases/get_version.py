"""Resolve a version."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.model_registry.domain.model import Model
from services.model_registry.domain.version import ModelVersion
from services.model_registry.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class GetVersion:
    """Show the version that a number or an alias stands for."""

    unit_of_work: UnitOfWork

    async def __call__(
        self, tenant: TenantId, *, model_name: str, selector: int | str
    ) -> tuple[Model, ModelVersion]:
        """Return the model and its version. Raises NotFound."""
        async with self.unit_of_work.reading(tenant) as tx:
            model = await tx.models.get(model_name)
            number = selector if isinstance(selector, int) else model.resolve(selector)
            return model, await tx.versions.get(model, number)
