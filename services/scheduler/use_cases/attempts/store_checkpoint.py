"""Bring what an attempt has left for the next one into the artifact store."""

from dataclasses import dataclass

from services.scheduler.domain.attempts.work import AttemptWork
from services.scheduler.domain.files import check_relative_path
from services.scheduler.domain.jobs.job import Checkpoint
from services.scheduler.use_cases.attempts.ports import ArtifactStore, ContainerRuntime
from services.scheduler.use_cases.attempts.store_files import store_files


@dataclass(frozen=True, slots=True)
class StoreCheckpoint:
    """Stream the checkpoint folder's files to the registry; repeatable, since it is by digest.

    Raises InvalidArgument or PayloadTooLarge for what can't be taken, and whatever the registry
    answers.
    """

    runtime: ContainerRuntime
    artifacts: ArtifactStore
    files_max: int
    bytes_max: int

    async def __call__(self, work: AttemptWork) -> Checkpoint | None:
        """Return what was stored; None if nothing was left: what there is from before counts."""
        left = await self.runtime.list_checkpoint(
            work.attempt.container_name, files_max=self.files_max, bytes_max=self.bytes_max
        )
        for each in left:
            check_relative_path(each.path, field="checkpoint")
        if not left:
            return None
        files = await store_files(self.artifacts, work.attempt, left)
        return Checkpoint(work.attempt.number, files)
