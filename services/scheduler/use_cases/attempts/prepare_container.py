"""Make an attempt's container, with all the files that it needs."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import PurePath
from typing import Final

from services.chassis.errors import InvalidArgument, NotFound
from services.scheduler.domain.attempts.runtime import ContainerSpec, PlacedFile
from services.scheduler.domain.attempts.work import AttemptWork, JobWork, ReplicaWork
from services.scheduler.domain.jobs.spec import JobSpec
from services.scheduler.use_cases.attempts.ports import ArtifactStore, ContainerRuntime, ModelServer

LABEL_PORT: Final = "modelyard.port"
"""Where a replica's server listens."""
LABEL_READY_PATH: Final = "modelyard.ready-path"

_RUNTIME_MARGIN: Final = timedelta(seconds=5)
"""The runtime's own limit on the run time is for when no runner is there: it comes second."""


@dataclass(frozen=True, slots=True)
class PrepareContainer:
    """Fetch bundle, inputs or model by digest, then create the container; both are repeatable.

    Raises what can't be helped (NotFound, InvalidArgument, PayloadTooLarge, FailedPrecondition) and
    what may pass (Unavailable).
    """

    runtime: ContainerRuntime
    artifacts: ArtifactStore
    servers: Mapping[str, ModelServer]
    """By image; only these can be a replica's."""
    replica_stop_grace: timedelta

    def fetches_files(self, work: AttemptWork) -> bool:
        """Return whether it needs files from the registry, which may take a while."""
        if isinstance(work.owner, JobWork):
            spec = work.owner.spec
            return bool(spec.inputs or spec.source_digest or work.owner.checkpoint)
        return True

    async def __call__(self, work: AttemptWork) -> bool:
        """Create the container, unless it is there; tell whether with all that it is to find.

        A checkpoint that the registry has not any more is left out: the job begins anew.
        """
        if isinstance(work.owner, ReplicaWork):
            await self._prepare_replica(work, work.owner)
            return True
        with _naming_its_field(work.owner.spec):
            try:
                await self._prepare_job(work, work.owner)
            except NotFound as error:
                if not _is_of_checkpoint(work.owner, error):
                    raise
                await self._prepare_job(work, replace(work.owner, checkpoint=None))
                return False
        return True

    async def _prepare_job(self, work: AttemptWork, job: JobWork) -> None:
        spec = job.spec
        digests = [given.digest for given in spec.inputs]
        if spec.source_digest:
            digests.append(spec.source_digest)
        kept = job.checkpoint.files if job.checkpoint is not None else ()
        digests += [each.digest for each in kept]
        async with self._held(work, digests) as files:
            inputs = [PlacedFile(given.name, files[given.digest]) for given in spec.inputs]
            await self.runtime.create(
                ContainerSpec(
                    name=work.attempt.container_name,
                    tenant=work.attempt.tenant,
                    image=spec.image,
                    command=spec.command,
                    environment={
                        **spec.env,
                        **_environment(work),
                        **_array_environment(job),
                        "MODELYARD_JOB_ID": job.job_id,
                        "MODELYARD_TASK": str(work.attempt.task),
                        "MODELYARD_TASK_COUNT": str(work.attempt.task_count),
                    },
                    labels=_labels(work),
                    source=files[spec.source_digest] if spec.source_digest else None,
                    inputs=tuple(inputs),
                    checkpoint=tuple(PlacedFile(each.path, files[each.digest]) for each in kept),
                    memory_bytes=work.attempt.resources.memory_bytes,
                    cpu_millicores=work.attempt.resources.cpu_millicores,
                    run_time_max=spec.timeouts.run + _RUNTIME_MARGIN,
                    stop_grace=spec.timeouts.stop_grace,
                )
            )

    async def _prepare_replica(self, work: AttemptWork, replica: ReplicaWork) -> None:
        server = self.servers.get(replica.image)
        if server is None:
            raise InvalidArgument("image", f"{replica.image!r} holds no known model server")
        setup = server.setup(
            name=replica.deployment_name,
            model=replica.model,
            listening=self.runtime.listening(server.port_count),
        )
        async with self._held(work, list(setup.model_files.values())) as files:
            placed = [PlacedFile(path, files[each]) for path, each in setup.model_files.items()]
            await self.runtime.create(
                ContainerSpec(
                    name=work.attempt.container_name,
                    tenant=work.attempt.tenant,
                    image=replica.image,
                    command=setup.command,
                    environment={
                        **_environment(work),
                        "MODELYARD_DEPLOYMENT_ID": replica.deployment_id,
                    },
                    labels={
                        **_labels(work),
                        LABEL_PORT: str(setup.port),
                        LABEL_READY_PATH: setup.ready_path,
                    },
                    files=tuple(placed),
                    texts=setup.texts,
                    memory_bytes=work.attempt.resources.memory_bytes,
                    cpu_millicores=work.attempt.resources.cpu_millicores,
                    stop_grace=self.replica_stop_grace,
                )
            )

    def _held(
        self, work: AttemptWork, digests: list[str]
    ) -> AbstractAsyncContextManager[Mapping[str, PurePath]]:
        return self.artifacts.held(work.attempt.tenant, sorted(set(digests)))


@contextmanager
def _naming_its_field(spec: JobSpec) -> Iterator[None]:
    """Tell of a missing artifact by the field that asks for it, in InvalidArgument.

    Here, not at submission: jobs are taken in while the registry is away.
    """
    try:
        yield
    except NotFound as error:
        digest = _missing_digest(error)
        field = spec.field_of_digest(digest) if digest else None
        if field is None:
            raise
        raise InvalidArgument(field, error.message) from error


def _missing_digest(error: NotFound) -> str | None:
    return error.detail.get("id") if error.detail.get("kind") == "artifact" else None


def _is_of_checkpoint(job: JobWork, error: NotFound) -> bool:
    """Tell whether what is missing is an earlier attempt's, and nothing that the job asks for."""
    digest = _missing_digest(error)
    kept = job.checkpoint.files if job.checkpoint is not None else ()
    is_kept = digest in {each.digest for each in kept}
    return is_kept and digest is not None and job.spec.field_of_digest(digest) is None


def _environment(work: AttemptWork) -> Mapping[str, str]:
    environment = {"MODELYARD_ATTEMPT": str(work.attempt.number)}
    if work.traceparent is not None:
        environment["TRACEPARENT"] = work.traceparent
    return environment


def _array_environment(job: JobWork) -> Mapping[str, str]:
    if job.element is None:
        return {}
    return {
        "MODELYARD_ARRAY_ID": job.element.array_id,
        "MODELYARD_ARRAY_INDEX": str(job.element.index),
        "MODELYARD_ARRAY_SIZE": str(job.spec.array_size),
    }


def _labels(work: AttemptWork) -> Mapping[str, str]:
    return {
        "modelyard.attempt": work.attempt.id,
        "modelyard.owner": work.attempt.owner.public_id,
        "modelyard.tenant": work.attempt.tenant,
    }
