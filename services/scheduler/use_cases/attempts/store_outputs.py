"""Bring what a job has left into the artifact store."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.attempts.runtime import LeftFile
from services.scheduler.domain.attempts.work import AttemptWork, JobWork
from services.scheduler.domain.files import check_relative_path
from services.scheduler.domain.jobs.job import OutputManifest
from services.scheduler.domain.jobs.spec import JobOutput
from services.scheduler.use_cases.attempts.ports import ArtifactStore, ContainerRuntime
from services.scheduler.use_cases.attempts.store_files import store_files


@dataclass(frozen=True, slots=True)
class StoreOutputs:
    """Stream each file of each declared output to the registry; repeatable, since it is by digest.

    Raises NotFound for an output that was not left, InvalidArgument or PayloadTooLarge for one that
    can't be taken, and whatever the registry answers.
    """

    runtime: ContainerRuntime
    artifacts: ArtifactStore
    files_max: int
    """Of all outputs together: with its path each is part of the job's one event."""
    bytes_max: int
    """Of one output."""

    async def __call__(self, work: AttemptWork, job: JobWork) -> tuple[OutputManifest, ...]:
        """Return what was stored, output by output."""
        # 1. All of it can be taken.
        left = {output: await self._left(work, output) for output in job.spec.outputs}
        if sum(map(len, left.values())) > self.files_max:
            raise InvalidArgument("outputs", f"hold more than {self.files_max} files together")
        # 2. Only then take it.
        return tuple([await self._store(work, output, files) for output, files in left.items()])

    async def _left(self, work: AttemptWork, output: JobOutput) -> Sequence[LeftFile]:
        left = await self.runtime.list_output(
            work.attempt.container_name,
            output.path,
            files_max=self.files_max,
            bytes_max=self.bytes_max,
        )
        if not left:
            raise InvalidArgument("outputs", f"{output.path!r} is an empty folder")
        for each in left:
            check_relative_path(each.path, field=f"file {each.path!r} of output {output.path!r}")
        return left

    async def _store(
        self, work: AttemptWork, output: JobOutput, left: Sequence[LeftFile]
    ) -> OutputManifest:
        files = await store_files(self.artifacts, work.attempt, left)
        return OutputManifest(output.name, output.register_as, files)
