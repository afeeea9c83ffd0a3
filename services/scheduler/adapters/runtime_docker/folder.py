"""A container's folder on this machine: its files, and our notes that the engine has no place for.

    <containers root>/<container name>/       only the runner may enter
        files/  work/ inputs/ outputs/ checkpoint/ progress.jsonl       mounted, one by one
        start-<container id>    this very container was asked to start, once
        stop.json               it was asked to stop, and when its time is up
        out-of-memory           the kernel killed a process of it, which the engine may not know
        lost                    the id of one that has run and is gone
        boot                    the machine's boot in which this was laid out

Owns: who asks for a start. The engine would run a container that has ended again, so each container
is asked to start at most once, by whoever makes its mark first.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from services.scheduler.adapters.runtime_files.files import (
    CHECKPOINT,
    OUTPUTS,
    PROGRESS,
    WORK,
    discard,
    lay_out_files,
    new_folder,
)
from services.scheduler.domain.attempts.runtime import ContainerSpec

_FILES: Final = "files"
_STOP: Final = "stop.json"
_OUT_OF_MEMORY: Final = "out-of-memory"
_LOST: Final = "lost"
_START: Final = "start-"
_BOOT: Final = "boot"


@dataclass(frozen=True, slots=True)
class StopRequest:
    """When a stop was asked for, and when patience ends on the monotonic clock of this boot."""

    at: datetime
    kill_at: float


@dataclass(frozen=True, slots=True)
class ContainerFolder:
    """One container's folder, there or not."""

    path: Path

    @property
    def name(self) -> str:
        """The container's name."""
        return self.path.name

    @property
    def files(self) -> Path:
        """What is mounted."""
        return self.path / _FILES

    def lay_out(self, spec: ContainerSpec, *, uid: int) -> None:
        """Make it, unless it is there; what the program may write is its user's.

        One of an earlier boot, whose files may be torn, is made anew.
        """
        if self.is_of_this_boot():
            return
        if self.path.exists():
            discard(self.path)
        with new_folder(self.path.parent, self.name, mode=0o700) as (new, publish):
            files = new / _FILES
            files.mkdir()
            lay_out_files(spec, files)
            (files / PROGRESS).touch()
            if os.geteuid() == 0:
                for part in (WORK, OUTPUTS, CHECKPOINT, PROGRESS):
                    _give_to(files / part, uid)
            (new / _BOOT).write_text(_boot_id())
            publish()

    def is_of_this_boot(self) -> bool:
        """Return whether it was laid out since the machine was started.

        The files of others may be torn, and their marks gone: none was waited for until it was on
        disk.
        """
        try:
            return (self.path / _BOOT).read_text() == _boot_id()
        except (FileNotFoundError, NotADirectoryError):
            return False

    def claim_start(self, container_id: str) -> bool:
        """Take the one right to ask for a container's start; False if somebody has it.

        Raises FileNotFoundError if the folder is gone.
        """
        try:
            os.close(
                os.open(self._claim(container_id), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            )
        except FileExistsError:
            return False
        return True

    def claimed_at(self, container_id: str) -> datetime | None:
        """Return when the start was claimed; None if it was not, or the folder is gone."""
        try:
            return datetime.fromtimestamp(self._claim(container_id).stat().st_mtime, UTC)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def ask_to_stop(self, request: StopRequest) -> StopRequest:
        """Write a request down and return the one that counts: the one with the least patience."""
        asked = self.stop_request()
        if asked is not None and asked.kill_at <= request.kill_at:
            return asked
        first_at = asked.at if asked is not None else request.at
        counting = StopRequest(first_at, request.kill_at)
        text = json.dumps({"at": counting.at.isoformat(), "kill_at": counting.kill_at})
        new = self.path / f".{_STOP}.{os.getpid()}"
        with suppress(
            FileNotFoundError
        ):  # a container whose folder is gone is stopped all the same
            new.write_text(text)
            new.rename(self.path / _STOP)
        return counting

    def stop_request(self) -> StopRequest | None:
        """Return the request that was written down."""
        try:
            data = json.loads((self.path / _STOP).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:  # torn by a loss of power, which ended the container, too
            return None
        return StopRequest(datetime.fromisoformat(data["at"]), data["kill_at"])

    def note_out_of_memory(self) -> None:
        """Note that the kernel killed one of its processes for memory."""
        with suppress(FileNotFoundError):
            (self.path / _OUT_OF_MEMORY).touch()

    def was_out_of_memory(self) -> bool:
        """Return whether that was noted."""
        return (self.path / _OUT_OF_MEMORY).exists()

    def claimed_ids(self) -> list[str]:
        """Return the containers whose start was claimed."""
        return [path.name.removeprefix(_START) for path in self.path.glob(f"{_START}*")]

    def forget_claim(self, container_id: str) -> None:
        """Note that a container is gone and never ran."""
        self._claim(container_id).unlink(missing_ok=True)

    def note_lost(self, container_id: str) -> None:
        """Note that a container is gone and has run."""
        with suppress(FileNotFoundError):
            (self.path / _LOST).write_text(container_id)

    def lost_id(self) -> str | None:
        """Return which container is gone and has run."""
        try:
            return (self.path / _LOST).read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def discard(self) -> None:
        """Delete it, if it is there."""
        discard(self.path)

    def _claim(self, container_id: str) -> Path:
        return self.path / f"{_START}{container_id}"


def _boot_id() -> str:
    """Return this boot's id, as `shim.boot_id` does, which stands alone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _give_to(path: Path, uid: int) -> None:
    for inner in _tree(path):
        os.chown(inner, uid, uid, follow_symlinks=False)


def _tree(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir():
        for folder, folders, files in os.walk(path):
            yield from (Path(folder, name) for name in (*folders, *files))
