"""Page through a model's versions."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.model_registry.domain.model import Model
from services.model_registry.domain.version import ModelVersion
from services.model_registry.use_cases.ports import Page, UnitOfWork


@dataclass(frozen=True, slots=True)
class ListVersions:
    """Show the versions with numbers below one (None: all), newest first."""

    unit_of_work: UnitOfWork

    async def __call__(
        self, tenant: TenantId, *, model_name: str, before: int | None, size: int
    ) -> tuple[Model, Page[ModelVersion]]:
        """Return the model and at most `size` of its versions. Raises NotFound."""
        async with self.unit_of_work(tenant) as tx:
            model = await tx.models.get(model_name)
            return model, await tx.versions.before(model, before, size=size)
