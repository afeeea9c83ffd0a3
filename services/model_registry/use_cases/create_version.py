"""Make a version from stored files."""

from dataclasses import dataclass

from services.chassis.clock import Clock
from services.chassis.errors import FailedPrecondition
from services.chassis.tenancy import TenantId
from services.model_registry.domain.model import Model
from services.model_registry.domain.version import ModelVersion, NewVersion
from services.model_registry.use_cases.ports import Once, UnitOfWork


@dataclass(frozen=True, slots=True)
class CreateVersion:
    """Make a version from files that the tenant has stored; READY at once, or refused."""

    unit_of_work: UnitOfWork
    clock: Clock

    async def __call__(
        self, tenant: TenantId, *, model_name: str, content: NewVersion, once: Once | None = None
    ) -> tuple[Model, ModelVersion]:
        """Return the model and its version.

        Raises NotFound, FailedPrecondition when a file isn't stored, KeyReused, InProgress.
        """
        async with self.unit_of_work(tenant) as tx:
            if (earlier := await tx.earlier_answer(once)) is not None:
                model = await tx.models.get(model_name)
                return model, await tx.versions.get(model, int(earlier))
            stored = await tx.artifacts.stored(content.manifest.digests)
            if (problem := content.manifest.problem(stored)) is not None:
                raise FailedPrecondition(problem)
            model, version, ready = (await tx.models.lock(model_name)).add_version(
                content, problem=None, at=self.clock.now()
            )
            await tx.models.save(model)
            await tx.versions.add(version)
            tx.emit(ready)
            await tx.answer(once, str(version.number))
        return model, version
