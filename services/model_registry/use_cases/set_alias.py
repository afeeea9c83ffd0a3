"""Point an alias at a version."""

from dataclasses import dataclass

from services.chassis.clock import Clock
from services.chassis.tenancy import TenantId
from services.model_registry.domain.model import Model
from services.model_registry.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class SetAlias:
    """Move an alias to a READY version; asking again changes nothing and publishes nothing."""

    unit_of_work: UnitOfWork
    clock: Clock

    async def __call__(
        self,
        tenant: TenantId,
        *,
        model_name: str,
        alias: str,
        version: int,
        if_revision: int | None,
    ) -> Model:
        """Return the model.

        Raises InvalidArgument, NotFound, FailedPrecondition, VersionMismatch.
        """
        async with self.unit_of_work(tenant) as tx:
            model = await tx.models.lock(model_name)
            target = await tx.versions.get(model, version)
            model, moved = model.move_alias(
                alias, to=target, at=self.clock.now(), if_revision=if_revision
            )
            if moved is not None:
                await tx.models.save(model)
                tx.emit(moved)
        return model
