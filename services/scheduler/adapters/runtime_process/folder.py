"""The folder of one container of the process runtime: its layout, and the records in it.

    <containers root>/<container name>/
        config.json      what to run; written by `create`
        claim.json       who may run it: a shim, or nobody (tombstone)      ┐ `shim.py`
        started.json     the program's process and its first instruction    │ writes
        exit.json        how it ended                                       │ these
        container.log    its output, in Docker's json-file format           ┘
        work/ inputs/ outputs/ checkpoint/ progress.jsonl

Owns: laying a folder out at once or not at all, and reading its records. Leaves to `runtime.py` the
processes behind them. Always holds: a folder has its name only when it is complete.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from services.scheduler.adapters.runtime_files.files import (
    lay_out_files,
    named_folders,
    new_folder,
)
from services.scheduler.adapters.runtime_process import shim
from services.scheduler.adapters.runtime_process.processes import ProcessIdentity
from services.scheduler.domain.attempts.runtime import ContainerExit, ContainerSpec, EndCause

TOMBSTONE: Final[dict[str, Any]] = {"tombstone": True}


_GONE: Final = ProcessIdentity(pid=1, start_ticks=0, boot_id="")
"""A process of an earlier boot, whichever it was."""


@dataclass(frozen=True, slots=True)
class ContainerFolder:
    """One container's folder, there or not."""

    path: Path

    @property
    def name(self) -> str:
        """The container's name."""
        return self.path.name

    def exists(self) -> bool:
        """Return whether the name is taken."""
        return self.path.is_dir()

    def config(self) -> Mapping[str, Any]:
        """Return what `create` wrote; empty for a tombstone and for what is not there."""
        try:
            return self._read(shim.CONFIG) or {}
        except ValueError:  # the machine lost power before it was on disk
            return {}

    def is_of_this_boot(self) -> bool:
        """Return whether it was laid out since the machine was started.

        The files of others may be torn: none was waited for until it was on disk.
        """
        return self.config().get("boot_id") == shim.boot_id()

    def created_at(self) -> datetime | None:
        """Return when `create` laid it out."""
        try:
            modified_s = (self.path / shim.CONFIG).stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None
        return datetime.fromtimestamp(modified_s, UTC)

    def claim(self) -> "Claim | None":
        """Return what was decided about it; None: nothing yet."""
        try:
            data = self._read(shim.CLAIM)
        except ValueError:  # torn by a loss of power, which its shim did not survive
            return Claim(_GONE)
        if data is None:
            return None
        return Claim(ProcessIdentity.from_json(data["shim"]) if "shim" in data else None)

    def started(self) -> "Started | None":
        """Return its program's process and start, once recorded."""
        try:
            data = self._read(shim.STARTED)
        except ValueError:  # the machine lost power before it was on disk
            return None
        if data is None:
            return None
        return Started(
            program=ProcessIdentity.from_json(data["child"]),
            at=datetime.fromisoformat(data["started_at"]),
        )

    def ended(self) -> "Ended | None":
        """Return its exit record, once there."""
        data = self._read(shim.EXIT)
        if data is None:
            return None
        if data.get("lost"):
            return Ended(exit=None)
        return Ended(
            exit=ContainerExit(
                code=data["code"],
                signal=data["signal"],
                cause=EndCause(data["cause"]) if data["cause"] else None,
                started_at=datetime.fromisoformat(data["started_at"]),
                ended_at=datetime.fromisoformat(data["ended_at"]),
                memory_bytes_peak=data["memory_bytes_peak"],
                cpu=timedelta(seconds=data["cpu_s"]),
            )
        )

    def record_lost(self) -> None:
        """Record that its end can't be known, so that a later look says the same."""
        shim.record(str(self.path / shim.EXIT), {"lost": True})

    def record_stop_request(self, *, kill_at: float) -> None:
        """Write down for the shim when, by the monotonic clock, the program's time is up.

        An earlier instant that was asked for stands.
        """
        asked = self._read(shim.STOP)
        if asked is None or kill_at < asked["kill_at"]:
            shim.record(str(self.path / shim.STOP), {"kill_at": kill_at}, sync=False)

    def shim_log(self) -> str:
        """Return the end of what the shim itself had to say: a traceback, if anything."""
        try:
            return (self.path / shim.SHIM_LOG).read_text(errors="replace")[-1000:].strip()
        except FileNotFoundError:
            return ""

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            data: dict[str, Any] = json.loads((self.path / name).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        return data


@dataclass(frozen=True, slots=True)
class Claim:
    """The one decision about a container."""

    shim: ProcessIdentity | None
    """None: a tombstone."""


@dataclass(frozen=True, slots=True)
class Started:
    """The record of a start."""

    program: ProcessIdentity
    at: datetime


@dataclass(frozen=True, slots=True)
class Ended:
    """The record of an end; without exit it is not known how."""

    exit: ContainerExit | None


def containers(root: Path) -> Iterator[ContainerFolder]:
    """Yield all containers, tombstones included."""
    return map(ContainerFolder, named_folders(root))


def lay_out(
    root: Path, spec: ContainerSpec, *, environment: Callable[[Path], Mapping[str, str]]
) -> bool:
    """Make a container's folder from its spec; False when the name is taken.

    `environment` is told the final folder, whose paths the program gets.
    """
    with new_folder(root, spec.name) as (new, publish):
        final = root / spec.name
        lay_out_files(spec, new)
        config = {
            "boot_id": shim.boot_id(),
            "name": spec.name,
            "tenant": spec.tenant,
            "image": spec.image,
            "labels": dict(spec.labels),
            "command": list(spec.command),
            "environment": dict(environment(final)),
            "memory_bytes": spec.memory_bytes,
            "run_time_max_s": _seconds(spec.run_time_max),
            "stop_grace_s": spec.stop_grace.total_seconds(),
        }
        shim.record(str(new / shim.CONFIG), config, sync=False)
        (new / shim.CONFIG).chmod(0o600)  # the environment may hold secrets
        return publish()


def lay_out_tombstone(root: Path, name: str) -> bool:
    """Take a free name for nobody; False when it is taken."""
    with new_folder(root, name) as (new, publish):
        shim.take_claim(TOMBSTONE, folder=str(new))
        return publish()


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()
