"""Containers as plain processes of this machine: `ContainerRuntime` where there is no engine.

Owns: which processes stand behind a container's folder. Each is run by its own `shim.py`, which
outlives this process; a restarted runner finds everything again from the folders. Leaves to the
shim output, limits and the exit record, to `folder.py` the files.

Isolates nothing: it is off unless settings allow it. Its node gets one tenant's work at a time, and
it refuses a second tenant's itself, should some come all the same. Always holds: a process is
signalled only after its pidfd was opened and its start time compared.
"""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.scheduler.adapters.node_failures import node_failures
from services.scheduler.adapters.runtime_files import leavings
from services.scheduler.adapters.runtime_files.files import (
    CHECKPOINT,
    INPUTS,
    OUTPUTS,
    PROGRESS,
    WORK,
    discard,
    discard_unfinished,
)
from services.scheduler.adapters.runtime_process import shim
from services.scheduler.adapters.runtime_process.folder import (
    TOMBSTONE,
    ContainerFolder,
    containers,
    lay_out,
    lay_out_tombstone,
)
from services.scheduler.adapters.runtime_process.processes import (
    kill_strays,
    opened,
    readable,
    send,
)
from services.scheduler.adapters.runtime_process.shims import SYSTEM_PATH, Shims
from services.scheduler.domain.attempts.attempt import LogLocation
from services.scheduler.domain.attempts.runtime import (
    Capabilities,
    Capability,
    ContainerPhase,
    ContainerSpec,
    ContainerStatus,
    LeftFile,
    Listening,
    ProgressData,
)

_OFFERED: Final = frozenset(
    {
        Capability.OOM_REPORTED,
        Capability.RUN_TIME_LIMIT,
        Capability.LONG_LINES_WHOLE,
        Capability.USAGE_REPORTED,
    }
)
_LOOPBACK: Final = "127.0.0.1"
_START_WAIT_MAX_S: Final = 30.0
_KILL_WAIT_MAX_S: Final = 10.0


class ProcessRuntime:
    """The process runtime of one node.

    `root` holds a folder for each container. `images` maps an image to a folder with a `bin`, such
    as a virtual environment. `environment` is for every program and its shim.
    """

    def __init__(
        self,
        root: Path,
        *,
        images: Mapping[str, Path],
        allow_mixed_tenants: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._root = root.absolute()
        self._images = {name: folder.absolute() for name, folder in images.items()}
        self._allow_mixed_tenants = allow_mixed_tenants
        self._environment = dict(environment or {})
        self._shims = Shims(self._environment)
        self._create_turn = asyncio.Lock()
        self._root.mkdir(parents=True, exist_ok=True)

    @property
    def capabilities(self) -> Capabilities:
        """Declare what it can do beyond the core."""
        mixed = {Capability.MIXED_TENANTS} if self._allow_mixed_tenants else frozenset()
        return Capabilities("process", _OFFERED | mixed)

    async def ping(self) -> None:
        """Do nothing: there is no engine that could be away."""

    async def tidy(self) -> None:
        """Delete what whoever had this node before was making or deleting."""
        with node_failures():
            await asyncio.to_thread(discard_unfinished, self._root)

    async def follow(self, stopping: asyncio.Event) -> None:
        """Have a shim ready for the next start; all else is read when it is asked for."""
        with self._shims.one_ahead():
            await stopping.wait()

    def listening(self, port_count: int) -> Listening:
        """Return ports of this machine that are free at the moment."""
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(port_count)]
            for each in sockets:
                each.bind((_LOOPBACK, 0))
            return Listening(_LOOPBACK, tuple(each.getsockname()[1] for each in sockets))

    async def create(self, spec: ContainerSpec) -> None:
        """Lay a container's folder out, unless it is there.

        Raises FailedPrecondition if the name is a tombstone's, InvalidArgument if the image is not
        known or the bundle is none, Unavailable while another tenant's work is on the node: none is
        placed beside it, so that this can only be passing.
        """
        # One after another where only one tenant may be here: each looks who is, then moves in.
        turn = contextlib.nullcontext() if self._allow_mixed_tenants else self._create_turn
        async with turn:
            with node_failures():
                await asyncio.to_thread(self._create, spec)

    async def entomb(self, name: str) -> ContainerStatus:
        """Take the name so that it never starts from now on; return what is there afterwards.

        That is a tombstone, unless it had been started before.
        """
        with node_failures():
            return await asyncio.to_thread(self._entomb, name)

    async def start(self, name: str) -> ContainerStatus:
        """Run a created container's first instruction; anything else stays as it is.

        Raises NotFound for an absent one, Unavailable if its shim ended before it took it: the node
        had no room for it, or killed it.
        """
        status = await self.inspect(name)
        if status.phase is ContainerPhase.ABSENT:
            raise NotFound("container", name)
        if status.phase is not ContainerPhase.CREATED:
            return status
        try:
            async with asyncio.timeout(_START_WAIT_MAX_S):
                with node_failures():
                    await self._shims.run(self._folder(name).path)
        except TimeoutError as error:
            raise Unavailable("the container's shim") from error
        status = await self.inspect(name)
        if status.phase is ContainerPhase.CREATED:
            because = f"it ended early: {self._folder(name).shim_log()}"
            raise Unavailable("the container's shim", because=because)
        return status

    async def inspect(self, name: str) -> ContainerStatus:
        """Return what stands behind a name."""
        with node_failures():
            return self._inspect(self._folder(name))

    async def list(self, labels: Mapping[str, str]) -> Sequence[ContainerStatus]:
        """Return the containers that bear all these labels."""
        with node_failures():
            return await asyncio.to_thread(self._list, labels)

    async def wait_exit(self, name: str) -> ContainerStatus:
        """Wait until a container runs no more, whoever started it; return what it is then.

        What is lost or absent has no process left when this returns.
        """
        folder = self._folder(name)
        with node_failures():
            claim = folder.claim()
            if claim is not None and claim.shim is not None:
                with opened(claim.shim) as descriptor:
                    if descriptor is not None:
                        await readable(descriptor)
                self._shims.reap()
            return await asyncio.to_thread(self._settle, folder)

    async def stop(self, name: str, *, grace: timedelta) -> ContainerStatus:
        """End a running container: TERM to its whole tree, KILL after the grace; return its end.

        The shim does it, so that it also happens if the runner does not live that long.
        """
        folder = self._folder(name)
        with node_failures():
            claim, status = folder.claim(), self._inspect(folder)
            if status.phase is not ContainerPhase.RUNNING or claim is None:
                return status
            assert claim.shim is not None, "what runs has a shim"
            folder.record_stop_request(kill_at=time.monotonic() + grace.total_seconds())
        with node_failures(), opened(claim.shim) as descriptor:
            if descriptor is not None:
                send(signal.SIGUSR1, descriptor)
                try:
                    async with asyncio.timeout(grace.total_seconds() + _KILL_WAIT_MAX_S):
                        await readable(descriptor)
                except TimeoutError:
                    send(signal.SIGKILL, descriptor)
                    await readable(descriptor)
        return await self.wait_exit(name)

    async def remove(self, name: str) -> None:
        """Delete a container that does not run, with its output; an absent one is no error.

        Raises FailedPrecondition while it runs.
        """
        with node_failures():
            await asyncio.to_thread(self._remove, name)

    async def read_progress(self, name: str, *, offset: int) -> ProgressData:
        """Return what the program has appended to its progress since `offset`."""
        progress = self._folder(name).path / PROGRESS
        return await asyncio.to_thread(leavings.read_progress, progress, offset=offset)

    async def list_output(
        self, name: str, path: str, *, files_max: int, bytes_max: int
    ) -> Sequence[LeftFile]:
        """Return the files that it left at a path below $MODELYARD_OUTPUTS."""
        outputs = self._folder(name).path / OUTPUTS
        with node_failures():
            return await asyncio.to_thread(
                leavings.list_output, outputs, path, files_max=files_max, bytes_max=bytes_max
            )

    async def list_checkpoint(
        self, name: str, *, files_max: int, bytes_max: int
    ) -> Sequence[LeftFile]:
        """Return the files that it left in $MODELYARD_CHECKPOINT."""
        folder = self._folder(name).path
        with node_failures():
            return await asyncio.to_thread(
                leavings.list_checkpoint, folder, files_max=files_max, bytes_max=bytes_max
            )

    async def last_lines(self, name: str, *, bytes_max: int) -> str:
        """Return the end of its standard error, of its output where it wrote nothing there."""
        log = self._folder(name).path / shim.LOG
        return await asyncio.to_thread(leavings.last_lines, log, bytes_max=bytes_max)

    async def log_location(self, name: str) -> LogLocation:
        """Return where its output is."""
        return LogLocation(path=f"{name}/{shim.LOG}")

    def _folder(self, name: str) -> ContainerFolder:
        return ContainerFolder(self._root / name)

    def _create(self, spec: ContainerSpec) -> None:
        image = self._images.get(spec.image)
        if image is None:
            raise InvalidArgument("image", f"{spec.image!r} is not known to this runtime")
        self._refuse_second_tenant(spec)

        def environment(folder: Path) -> Mapping[str, str]:
            return self._program_environment(spec, folder=folder, image=image)

        if lay_out(self._root, spec, environment=environment):
            return
        claim = self._folder(spec.name).claim()
        if claim is not None and claim.shim is None:
            raise FailedPrecondition(f"container {spec.name} was given up before it was created")

    def _refuse_second_tenant(self, spec: ContainerSpec) -> None:
        if self._allow_mixed_tenants:
            return
        for folder in containers(self._root):
            other = folder.config().get("tenant", spec.tenant)
            if other != spec.tenant and self._inspect(folder).phase in {
                ContainerPhase.CREATED,
                ContainerPhase.RUNNING,
            }:
                raise Unavailable("the node", because="another tenant's work is still on it")

    def _program_environment(
        self, spec: ContainerSpec, *, folder: Path, image: Path
    ) -> Mapping[str, str]:
        return {
            "PATH": f"{image / 'bin'}:{SYSTEM_PATH}",
            "HOME": str(folder / WORK),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            **self._environment,
            **spec.environment,
            shim.CONTAINER_MARK: str(folder),
            "MODELYARD_INPUTS": str(folder / INPUTS),
            "MODELYARD_OUTPUTS": str(folder / OUTPUTS),
            "MODELYARD_CHECKPOINT": str(folder / CHECKPOINT),
            "MODELYARD_PROGRESS": str(folder / PROGRESS),
        }

    def _entomb(self, name: str) -> ContainerStatus:
        folder = self._folder(name)
        if not lay_out_tombstone(self._root, name) and folder.claim() is None:
            shim.take_claim(TOMBSTONE, folder=str(folder.path))  # or a shim is quicker
        return self._inspect(folder)

    def _inspect(self, folder: ContainerFolder) -> ContainerStatus:
        labels = folder.config().get("labels", {})
        started = folder.started()
        phase, ended = self._phase(folder), folder.ended()
        return ContainerStatus(
            name=folder.name,
            phase=phase,
            labels=labels,
            created_at=folder.created_at(),
            started_at=started.at if started is not None else None,
            host=_LOOPBACK,
            exit=ended.exit if ended is not None else None,
        )

    def _phase(self, folder: ContainerFolder) -> ContainerPhase:
        claim = folder.claim()
        if claim is None and folder.exists():
            return ContainerPhase.CREATED if folder.is_of_this_boot() else ContainerPhase.LOST
        if claim is None:
            return ContainerPhase.ABSENT
        if claim.shim is None:
            return ContainerPhase.TOMBSTONE
        is_alive = claim.shim.is_alive()  # first: the record comes before the shim's end
        ended = folder.ended()
        if ended is not None:
            return ContainerPhase.EXITED if ended.exit is not None else ContainerPhase.LOST
        return ContainerPhase.RUNNING if is_alive else ContainerPhase.LOST

    def _list(self, labels: Mapping[str, str]) -> Sequence[ContainerStatus]:
        statuses = [self._inspect(folder) for folder in containers(self._root)]
        return [status for status in statuses if labels.items() <= status.labels.items()]

    def _settle(self, folder: ContainerFolder) -> ContainerStatus:
        """Make a loss final: whatever is left without its shim, or its folder, is killed first."""
        status = self._inspect(folder)
        is_new_loss = status.phase is ContainerPhase.LOST and folder.ended() is None
        if is_new_loss or status.phase is ContainerPhase.ABSENT:
            started = folder.started()
            kill_strays(folder.path, started.program if started is not None else None)
        if is_new_loss:
            folder.record_lost()
        return status

    def _remove(self, name: str) -> None:
        folder = self._folder(name)
        phase = self._phase(folder)
        if phase is ContainerPhase.CREATED:
            phase = self._entomb(name).phase
        if phase is ContainerPhase.RUNNING:
            raise FailedPrecondition(f"container {name} is running")
        if phase is not ContainerPhase.ABSENT:
            self._settle(folder)
            discard(folder.path)
