"""What a container runtime is asked for, and what it tells about a container.

Owns: the values that pass through the `ContainerRuntime` port, the same for `process`, Docker and
Kubernetes. Leaves to the port which calls there are, to the adapters how they come about.

Always holds: a container's name is used once. What has been started is never started again, and a
tombstone is never started at all.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import PurePath
from typing import Final

from services.chassis.errors import InvalidArgument
from services.chassis.tenancy import TenantId
from services.scheduler.domain.resources import check_memory

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,127}")


class Capability(StrEnum):
    """What a runtime can do beyond the core; a spec that needs a missing one is refused."""

    ISOLATION = "isolation"
    """Tenants can't reach each other's processes and files."""
    MIXED_TENANTS = "mixed_tenants"
    """Several tenants' work may be on the node at a time: kept apart, or let be by the settings."""
    NETWORK_ISOLATION = "network_isolation"
    CPU_LIMIT = "cpu_limit"
    MEMORY_LIMIT = "memory_limit"
    """The limit is hard: not a byte beyond it."""
    DISK_LIMIT = "disk_limit"
    PIDS_LIMIT = "pids_limit"
    """So many processes and threads, and not one more."""
    READ_ONLY_ROOT = "read_only_root"
    """Only its own folders and a bounded `/tmp` can be written."""
    OOM_REPORTED = "oom_reported"
    """An exit that was caused by the memory limit says so."""
    RUN_TIME_LIMIT = "run_time_limit"
    """`run_time_max` holds also while no runner is there."""
    LONG_LINES_WHOLE = "long_lines_whole"
    """Characters at the cuts of a long line survive; Docker's json-file replaces them."""
    USAGE_REPORTED = "usage_reported"
    """An exit tells memory and CPU time."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one runtime declares."""

    runtime: str
    offered: frozenset[Capability]

    def missing(self, needed: frozenset[Capability]) -> frozenset[Capability]:
        """Return what is needed and not offered."""
        return needed - self.offered

    @property
    def allows_mixed_tenants(self) -> bool:
        """Tell whether several tenants' work may be on the node at a time."""
        return Capability.MIXED_TENANTS in self.offered


class ContainerPhase(StrEnum):
    """Where a container is; Docker's words where it has one."""

    ABSENT = "absent"
    """There is none of this name: never made, or removed."""
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    LOST = "lost"
    """Ran and runs no more; how it ended can't be known, and its output may lack the end."""
    TOMBSTONE = "tombstone"
    """The name is taken so that a late `create` finds it so; never starts."""


class EndCause(StrEnum):
    """Why the runtime ended a program that did not end by itself."""

    STOP = "stop"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"


@dataclass(frozen=True, slots=True)
class ContainerExit:
    """How a container ended, and what it used."""

    code: int
    """The program's exit code; 128 + signal when a signal ended it."""
    signal: int | None
    cause: EndCause | None
    """None: the program ended by itself, or by somebody else's signal."""
    started_at: datetime
    ended_at: datetime
    memory_bytes_peak: int | None = None
    """None, like `cpu`, where the runtime does not tell."""
    cpu: timedelta | None = None
    is_end_seen: bool = True
    """False: the engine was away at the end, and what was printed last may be missing."""

    @property
    def is_oom(self) -> bool:
        """Whether the memory limit ended it."""
        return self.cause is EndCause.MEMORY_LIMIT


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """What `inspect` tells of a name."""

    name: str
    phase: ContainerPhase
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime | None = None
    """When its name was taken; None where that is not known any more."""
    started_at: datetime | None = None
    """When its first instruction ran; present from RUNNING on."""
    host: str | None = None
    """Where this node reaches the ports it listens on; present while it runs."""
    exit: ContainerExit | None = None
    """Present with EXITED."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a server in a container is to listen: an address of its own, and ports on it."""

    host: str
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A file of the node that the container gets at a relative path."""

    path: str
    file: PurePath


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to be; the runtime adds the paths of the folders to the environment."""

    name: str
    tenant: TenantId
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    source: PurePath | None = None
    """A gzipped tar on the node, unpacked into the working folder."""
    inputs: tuple[PlacedFile, ...] = ()
    """Read-only, below $MODELYARD_INPUTS."""
    files: tuple[PlacedFile, ...] = ()
    """Read-only, in the working folder."""
    checkpoint: tuple[PlacedFile, ...] = ()
    """The program's own, below $MODELYARD_CHECKPOINT."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Small texts to write into the working folder, by relative path."""
    memory_bytes: int | None = None
    cpu_millicores: int | None = None
    run_time_max: timedelta | None = None
    stop_grace: timedelta = timedelta(seconds=30)
    """Between TERM and KILL where a limit ends it; `stop` brings its own."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidArgument("container.name", f"must match {_NAME.pattern}")
        if not self.command:
            raise InvalidArgument("container.command", "must not be empty")
        if self.memory_bytes is not None:
            check_memory(self.memory_bytes, field="container.memory_bytes")
        placed = self.inputs + self.files + self.checkpoint
        for path in (*self.texts, *(each.path for each in placed)):
            if not is_inner_path(path):
                raise InvalidArgument("container.files", f"{path!r} must stay in its folder")


@dataclass(frozen=True, slots=True)
class LeftFile:
    """A file that a container has left: its path within the output, and where the node has it."""

    path: str
    file: PurePath


@dataclass(frozen=True, slots=True)
class ProgressData:
    """What a program has appended to $MODELYARD_PROGRESS, and from where to read on."""

    data: bytes
    next_offset: int


def is_inner_path(path: str) -> bool:
    """Return whether a path is relative, with forward slashes, without `.` and `..` parts."""
    parts = path.split("/")
    return "\x00" not in path and all(part not in {"", ".", ".."} for part in parts)
