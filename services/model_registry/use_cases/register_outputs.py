"""Turn what a job left into model versions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.chassis.clock import Clock
from services.chassis.ids import Ids
from services.chassis.tenancy import TenantId
from services.model_registry.domain.artifact import Artifact, Digest, Manifest
from services.model_registry.domain.model import Model
from services.model_registry.domain.version import Lineage, NewVersion
from services.model_registry.use_cases.ports import Transaction, UnitOfWork


@dataclass(frozen=True, slots=True)
class JobOutput:
    """One output that shall become a version of a model."""

    name: str
    register_as: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class SucceededJob:
    """What a job's last event says about it."""

    event_id: str
    job_id: str
    source_digest: Digest | None
    metrics: Mapping[str, float]
    outputs: Sequence[JobOutput]


@dataclass(frozen=True, slots=True)
class RegisterOutputs:
    """Make each output that asks for it a version of the model that it names, once.

    A model that is missing is made. Bytes that the tenant hasn't stored make the version FAILED: so
    the tenant sees why its job left no model; a dead letter would tell operators only.
    """

    unit_of_work: UnitOfWork
    clock: Clock
    ids: Ids

    async def __call__(self, tenant: TenantId, job: SucceededJob) -> None:
        """Register the outputs. Raises DuplicateEvent, InvalidArgument for a name that can't be."""
        async with self.unit_of_work(tenant) as tx:
            # 1. The event has its effect once.
            await tx.claim_event(job.event_id)
            # 2. Look once at what is stored.
            digests = {digest for output in job.outputs for digest in output.manifest.digests}
            stored = await tx.artifacts.stored(digests)
            # 3. Register in the models' order, so that no two jobs lock two models crosswise.
            for output in sorted(job.outputs, key=lambda output: (output.register_as, output.name)):
                await self._register(tx, job, output, stored)

    async def _register(
        self,
        tx: Transaction,
        job: SucceededJob,
        output: JobOutput,
        stored: Mapping[Digest, Artifact],
    ) -> None:
        now = self.clock.now()
        new_model, created = Model.create(self.ids.new("mdl"), name=output.register_as, at=now)
        if await tx.models.add(new_model):
            tx.emit(created)
        model = await tx.models.lock(output.register_as)
        # Under the lock, so that the same job told by another event waits for our row.
        if await tx.versions.has_output(job_id=job.job_id, output_name=output.name):
            return
        content = NewVersion.checked(
            output.manifest,
            metrics=job.metrics,
            lineage=Lineage(job.job_id, output.name, job.source_digest),
        )
        model, version, registered = model.add_version(
            content, problem=output.manifest.problem(stored), at=now
        )
        await tx.models.save(model)
        await tx.versions.add(version)
        tx.emit(registered)
