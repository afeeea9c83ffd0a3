"""Make a model."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.chassis.clock import Clock
from services.chassis.errors import AlreadyExists
from services.chassis.ids import Ids
from services.chassis.tenancy import TenantId
from services.model_registry.domain.model import Model
from services.model_registry.use_cases.ports import Once, UnitOfWork


@dataclass(frozen=True, slots=True)
class CreateModel:
    """Make a model without versions; a repeated request finds the model that the first one made."""

    unit_of_work: UnitOfWork
    clock: Clock
    ids: Ids

    async def __call__(
        self,
        tenant: TenantId,
        *,
        name: str,
        description: str,
        tags: Mapping[str, str],
        once: Once | None = None,
    ) -> Model:
        """Return the model. Raises InvalidArgument, AlreadyExists, KeyReused, InProgress."""
        model, created = Model.create(
            self.ids.new("mdl"), name=name, description=description, tags=tags, at=self.clock.now()
        )
        async with self.unit_of_work(tenant) as tx:
            if (earlier := await tx.earlier_answer(once)) is not None:
                return await tx.models.get(earlier)
            if not await tx.models.add(model):
                raise AlreadyExists("model", model.name)
            tx.emit(created)
            await tx.answer(once, model.name)
        return model
