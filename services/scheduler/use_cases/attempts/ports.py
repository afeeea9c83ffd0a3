"""What driving attempts needs from outside: a container runtime, artifacts, and model servers.

Owns: the Protocols. Leaves the store and the lease to `use_cases.ports`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Protocol

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import LogLocation
from services.scheduler.domain.attempts.runtime import (
    Capabilities,
    ContainerSpec,
    ContainerStatus,
    LeftFile,
    Listening,
    ProgressData,
)
from services.scheduler.domain.deployments.model import ModelPin
from services.scheduler.domain.identities import AttemptId
from services.scheduler.use_cases.ports import Lease


class ContainerRuntime(Protocol):
    """The engine that runs containers on this node; `tests/contract/container_runtime` says how.

    A name is used once: it is created, started and ended at most once each, or entombed before.
    """

    @property
    def capabilities(self) -> Capabilities:
        """Declare what it can do beyond the core."""
        ...

    async def ping(self) -> None:
        """Raise Unavailable, within seconds, unless the engine answers."""
        ...

    async def tidy(self) -> None:
        """Delete what whoever had this node before was making or deleting when it lost it."""
        ...

    async def follow(self, stopping: asyncio.Event) -> None:
        """Keep what it knows of its engine up to date until told to stop."""
        ...

    def listening(self, port_count: int) -> Listening:
        """Return where a server in a container that is created next may listen."""
        ...

    async def create(self, spec: ContainerSpec) -> None:
        """Make a container, unless there is one of this name.

        Raises FailedPrecondition if the name was entombed, InvalidArgument if the spec can't be
        met, Unavailable for what may pass.
        """
        ...

    async def entomb(self, name: str) -> ContainerStatus:
        """Take a name that was not started, so that it never will be; return what it is then."""
        ...

    async def start(self, name: str) -> ContainerStatus:
        """Start what is created, and nothing else; return what it is then. Raises NotFound."""
        ...

    async def inspect(self, name: str) -> ContainerStatus:
        """Return what stands behind a name."""
        ...

    async def list(self, labels: Mapping[str, str]) -> Sequence[ContainerStatus]:
        """Return the containers that bear all these labels."""
        ...

    async def wait_exit(self, name: str) -> ContainerStatus:
        """Wait while it runs; return what it is then."""
        ...

    async def stop(self, name: str, *, grace: timedelta) -> ContainerStatus:
        """End it: TERM to its program, KILL to all of it after the grace; return what it is."""
        ...

    async def remove(self, name: str) -> None:
        """Delete a container or tombstone; raises FailedPrecondition while it runs."""
        ...

    async def read_progress(self, name: str, *, offset: int) -> ProgressData:
        """Return what the program has appended to its progress since `offset`, or the end of it."""
        ...

    async def list_output(
        self, name: str, path: str, *, files_max: int, bytes_max: int
    ) -> Sequence[LeftFile]:
        """Return the files that it left at a path below $MODELYARD_OUTPUTS.

        Raises NotFound if there are none, InvalidArgument for what is no file, PayloadTooLarge.
        """
        ...

    async def list_checkpoint(
        self, name: str, *, files_max: int, bytes_max: int
    ) -> Sequence[LeftFile]:
        """Return the files that it left in $MODELYARD_CHECKPOINT, none if it is gone.

        Raises InvalidArgument for what is no file, PayloadTooLarge.
        """
        ...

    async def last_lines(self, name: str, *, bytes_max: int) -> str:
        """Return the end of its standard error, of its output where it wrote nothing there."""
        ...

    async def log_location(self, name: str) -> LogLocation:
        """Return where its output is; raises NotFound if there is no such container."""
        ...


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Bytes in the registry's artifact store."""

    digest: str
    size_bytes: int


class ArtifactStore(Protocol):
    """The registry's bytes, seen from a node."""

    def held(
        self, tenant: TenantId, digests: Sequence[str]
    ) -> AbstractAsyncContextManager[Mapping[str, PurePath]]:
        """Give these bytes as files of the node, verified, for as long as the block lasts.

        Raises NotFound of kind `artifact` if the tenant has none of a digest, PayloadTooLarge if
        the node can't hold it, Unavailable if the registry can't be reached.
        """
        ...

    async def put(self, tenant: TenantId, file: PurePath, *, attempt_id: AttemptId) -> StoredFile:
        """Store a file's bytes in the name of the attempt that left it; repeatable."""
        ...


class NodeFiles(Protocol):
    """What a node keeps of tenants' bytes, so that it need not fetch them again."""

    async def purge(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete files of these tenants that no attempt is using; return how many.

        Raises Unavailable.
        """
        ...


@dataclass(frozen=True, slots=True)
class ServerSetup:
    """How a model server is run: a command, and texts and read-only files in its working folder."""

    command: tuple[str, ...]
    texts: Mapping[str, str]
    model_files: Mapping[str, str]
    """Digest by relative path."""
    port: int
    """Where it answers requests."""
    ready_path: str
    """Answers 200 once the model can be asked."""


class ModelServer(Protocol):
    """One kind of model server, as an image holds it."""

    @property
    def port_count(self) -> int:
        """How many ports it listens on."""
        ...

    def setup(self, *, name: str, model: ModelPin, listening: Listening) -> ServerSetup:
        """Return how it serves a model under a name; raises InvalidArgument if it can't."""
        ...


class ServerProbe(Protocol):
    """Asks a server whether it is there."""

    async def is_ready(self, url: str) -> bool:
        """Return whether it answers 200 in time."""
        ...


class NodeLease(Protocol):
    """The right to act on this node's containers."""

    @property
    def held(self) -> Lease | None:
        """Return the lease while this process may act on it."""
        ...


@dataclass(frozen=True, slots=True)
class RunSpan:
    """A container's run, to be written into its submission's trace when it is over."""

    traceparent: str
    started_at: datetime
    ended_at: datetime
    attributes: Mapping[str, str | int]


class RunTraces(Protocol):
    """The submissions' traces."""

    def under(self, traceparent: str | None) -> AbstractContextManager[None]:
        """Make what is called in this block part of a submission's trace."""
        ...

    def record(self, span: RunSpan) -> None:
        """Write a span with explicit times; never fails."""
        ...
