"""The one way in which files that an attempt has left come into the artifact store."""

from collections.abc import Sequence

from services.scheduler.domain.attempts.attempt import Attempt
from services.scheduler.domain.attempts.runtime import LeftFile
from services.scheduler.domain.files import FileEntry
from services.scheduler.use_cases.attempts.ports import ArtifactStore


async def store_files(
    artifacts: ArtifactStore, attempt: Attempt, left: Sequence[LeftFile]
) -> tuple[FileEntry, ...]:
    """Store each file in the attempt's name; repeatable, since it is by digest."""
    files = []
    for each in left:
        stored = await artifacts.put(attempt.tenant, each.file, attempt_id=attempt.id)
        files.append(FileEntry(each.path, stored.size_bytes, stored.digest))
    return tuple(files)
