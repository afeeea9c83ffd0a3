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

    async def __call__(
        self, tenant: TenantId, *, model_name: str, alias: str, if_revision: int | None
    ) -> Model:
        """Return the model. Raises NotFound when there is no such model, VersionMismatch."""
        async with self.unit_of_work(tenant) as tx:
            model = await tx.models.lock(model_name)
            model, moved = model.drop_alias(alias, at=self.clock.now(), if_revision=if_revision)
            if moved is not None:
                await tx.models.save(model)
                tx.emit(moved)
        return model
