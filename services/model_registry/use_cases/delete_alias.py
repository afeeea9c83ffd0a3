"""Remove an alias."""

from dataclasses import dataclass

from services.chassis.clock import Clock
from services.chassis.tenancy import TenantId
from services.model_registry.domain.model import Model
from services.model_registry.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class DeleteAlias:
    """Remove an alias; one that is gone already stays gone, and nothing is published."""

    unit_of_work: UnitOfWork
    clock: Clock

    async def __call__(self, tenant: TenantId, *, model_name: str, alias: str) -> Model:
        """Return the model. Raises NotFound when there is no such model."""
        async with self.unit_of_work(tenant) as tx:
            model, moved = (await tx.models.lock(model_name)).drop_alias(alias, at=self.clock.now())
            if moved is not None:
                await tx.models.save(model)
                tx.emit(moved)
        return model
