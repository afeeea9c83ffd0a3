"""Replace a model's tags."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.model_registry.domain.model import Model
from services.model_registry.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class SetModelTags:
    """Replace all tags of a model."""

    unit_of_work: UnitOfWork

    async def __call__(
        self, tenant: TenantId, *, model_name: str, tags: Mapping[str, str]
    ) -> Model:
        """Return the model. Raises InvalidArgument, PayloadTooLarge, NotFound."""
        async with self.unit_of_work(tenant) as tx:
            model = (await tx.models.lock(model_name)).retag(tags)
            await tx.models.save(model)
        return model
