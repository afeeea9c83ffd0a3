"""Containers on one Docker engine of this machine: `ContainerRuntime`, hardened.

Owns: the port's promises. `engine.py` makes the calls, `seeing.py` says what containers mean to the
port, `news.py` that something has happened to one, `abilities.py` what an engine must be able to;
`folder.py` keeps the files and who may start, `images.py` the images, `networks.py` the networks;
`hardening.py` says what a program may.

A tombstone is a container of an empty image that bears the name and is never started. The engine
decides every race: a name is given once, a deleted container can't be started by a late call, and
one that runs can't be deleted. What the engine does not decide, a second start of a container that
has ended, the mark in its folder does.

Always holds: a container is asked to start at most once. One whose start was asked for and that is
still *created* seconds later is deleted and made anew.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from aiodocker import Docker
from loguru import logger

from services.chassis.clock import Clock
from services.chassis.errors import (
    FailedPrecondition,
    InvalidArgument,
    ModelyardError,
    NotFound,
    Unavailable,
)
from services.chassis.tenancy import TenantId
from services.chassis.waiting import is_set_within
from services.scheduler.adapters.node_failures import node_failures
from services.scheduler.adapters.runtime_docker.abilities import lacking, machine_has_swap
from services.scheduler.adapters.runtime_docker.cgroups import has_killed_for_memory
from services.scheduler.adapters.runtime_docker.engine import Engine, EngineFailed, Json
from services.scheduler.adapters.runtime_docker.folder import ContainerFolder, StopRequest
from services.scheduler.adapters.runtime_docker.hardening import (
    Hardening,
    Users,
    container_config,
    thread_environment,
)
from services.scheduler.adapters.runtime_docker.images import NodeImages
from services.scheduler.adapters.runtime_docker.networks import (
    TENANT_LABEL,
    UNUSED_MIN,
    TenantNetworks,
)
from services.scheduler.adapters.runtime_docker.news import ContainerNews
from services.scheduler.adapters.runtime_docker.seeing import (
    TOMBSTONE_LABEL,
    is_on_network,
    name_of,
    outline_of,
    phase_of,
    status_of,
)
from services.scheduler.adapters.runtime_files import leavings
from services.scheduler.adapters.runtime_files.files import (
    CHECKPOINT,
    INPUTS,
    OUTPUTS,
    PROGRESS,
    WORK,
    discard_unfinished,
    named_folders,
)
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

SCOPE_LABEL: Final = "modelyard.scope"
TOMBSTONE_IMAGE: Final = "modelyard/tombstone:1"
_MOUNTED_AT: Final = "/modelyard"
_FIRST_PORT: Final = 8080
_ANY_ADDRESS: Final = "0.0.0.0"  # noqa: S104 of the container's own network

_OFFERED: Final = frozenset(
    {
        Capability.ISOLATION,
        Capability.MIXED_TENANTS,
        Capability.CPU_LIMIT,
        Capability.MEMORY_LIMIT,
        Capability.PIDS_LIMIT,
        Capability.READ_ONLY_ROOT,
        Capability.OOM_REPORTED,
    }
)
_UNKNOWN_CODE: Final = 255
"""What the engine says where it does not know how a container ended."""
_RACE_ROUNDS_MAX: Final = 5
_RECHECK_INTERVAL: Final = timedelta(seconds=15)
"""Fallback only: the end of a container is an event."""
_STARTING_MAX: Final = timedelta(seconds=5)
"""A start that was asked for longer ago is given up. One that comes still finds no container, or
keeps its own from being deleted."""
_STARTING_RECHECK: Final = timedelta(milliseconds=20)
_SWEEP_INTERVAL: Final = timedelta(seconds=10)
_KILL_WAIT_MAX: Final = timedelta(seconds=15)
_LAST_LINES_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class DockerOptions:
    """What the runtime is told of its engine and this machine."""

    scope: str
    """Value of the label that tells our containers from others on the engine."""
    containers_root: Path
    images: Mapping[str, str]
    """Image name → the engine's reference; nothing else runs."""
    is_host_fenced: bool
    pull_timeout: timedelta
    users: Users
    """Of programs, and owners of their files; the runner itself unless that is root."""
    hardening: Hardening


@dataclass(frozen=True, slots=True)
class _Made:
    """A container that was just created, so that its start need not look for it."""

    container_id: str
    tenant: TenantId


@asynccontextmanager
async def open_docker_runtime(
    url: str,
    options: DockerOptions,
    *,
    clock: Clock,
    call_timeout: timedelta,
    work_timeout: timedelta,
) -> AsyncIterator["DockerRuntime"]:
    """Give the runtime of an engine, which need not be there yet."""
    async with Docker(url) as docker:
        engine = Engine(docker, call_timeout=call_timeout, work_timeout=work_timeout)
        yield DockerRuntime(engine, options, clock)


class DockerRuntime:
    """The Docker runtime of one node; `follow` has to run beside it."""

    def __init__(self, engine: Engine, options: DockerOptions, clock: Clock) -> None:
        self._engine = engine
        self._options = options
        self._clock = clock
        self._scope = {SCOPE_LABEL: options.scope}
        self._networks = TenantNetworks(engine, self._scope)
        self._images = NodeImages(engine, options.images, pull_timeout=options.pull_timeout)
        self._root = options.containers_root.absolute()
        self._news = ContainerNews(engine, self._scope, clock)
        self._made: dict[str, _Made] = {}
        """By name, from create to start or removal."""
        self._root.mkdir(parents=True, exist_ok=True)

    @property
    def capabilities(self) -> Capabilities:
        """Declare what it can do beyond the core."""
        fenced = {Capability.NETWORK_ISOLATION} if self._options.is_host_fenced else frozenset()
        return Capabilities("docker", _OFFERED | fenced)

    async def ping(self) -> None:
        """Raise Unavailable unless the engine answers, and can keep what bounds containers."""
        with node_failures():
            has_swap = machine_has_swap()
        lacks = lacking(await self._engine.info(), has_swap=has_swap)
        if lacks:
            raise EngineFailed(f"it can't keep {', '.join(lacks)}")

    async def tidy(self) -> None:
        """Delete what whoever had this node before was making or deleting when it lost it."""
        self._made.clear()
        with node_failures():
            await asyncio.to_thread(discard_unfinished, self._root)

    async def follow(self, stopping: asyncio.Event) -> None:
        """Read the engine's events, fetch its images, and tidy its networks, until told to stop."""
        async with asyncio.TaskGroup() as tasks:
            parts = [
                tasks.create_task(part)
                for part in (self._news.follow(), self._images.fetch(), self._sweep())
            ]
            await stopping.wait()
            for part in parts:
                part.cancel()

    def listening(self, port_count: int) -> Listening:
        """Return ports of the container's own network."""
        return Listening(_ANY_ADDRESS, tuple(range(_FIRST_PORT, _FIRST_PORT + port_count)))

    async def create(self, spec: ContainerSpec) -> None:
        """Lay its files out and create it, unless it is there.

        Raises FailedPrecondition if the name is a tombstone's or a lost container's,
        InvalidArgument if the image is not known or the bundle is none.
        """
        image = self._images.reference_of(spec.image)
        if self._folder(spec.name).lost_id() is not None:
            raise FailedPrecondition(f"container {spec.name} has run and was deleted")
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._lay_out(spec))
                image_id = tasks.create_task(self._images.bounded_id(image))
                network_id = await self._networks.ensure(spec.tenant)
        except* ModelyardError as group:
            raise _first(group) from group
        # By its id: its name may be another image's by now.
        config = self._config(spec, image_id.result(), network_id=network_id)
        try:
            container_id = await self._engine.create(spec.name, config)
        except NotFound as error:  # the image or the network has just been removed
            self._networks.forget(spec.tenant)
            raise EngineFailed(error.message) from error
        if container_id is None:
            await self._refuse_other(spec.name)
        else:
            self._made[spec.name] = _Made(container_id, spec.tenant)

    async def _lay_out(self, spec: ContainerSpec) -> None:
        uid = self._options.users.of(spec.tenant)
        with node_failures():
            await asyncio.to_thread(self._folder(spec.name).lay_out, spec, uid=uid)

    async def _refuse_other(self, name: str) -> None:
        """Raise FailedPrecondition if the name is a tombstone's, or taken outside of our scope."""
        container = await self._find(name)
        if container is None:
            raise FailedPrecondition(f"the name {name} is taken on this engine")
        if phase_of(container) is ContainerPhase.TOMBSTONE:
            raise FailedPrecondition(f"container {name} was given up before it was created")

    async def entomb(self, name: str) -> ContainerStatus:
        """Take the name so that it never starts from now on; return what is there afterwards."""
        self._made.pop(name, None)
        for _ in range(_RACE_ROUNDS_MAX):
            container = await self._find(name)
            status = await self._look(name, container)
            if status.phase is ContainerPhase.ABSENT:
                await self._create_tombstone(name)
            elif status.phase is ContainerPhase.CREATED:
                assert container is not None, "what is created is there"
                with suppress(NotFound, FailedPrecondition):  # gone already, or it runs by now
                    await self._delete_unstarted(name, container["Id"])
            else:
                return status
        raise Unavailable(f"the name of container {name}")

    async def start(self, name: str) -> ContainerStatus:
        """Start it if it is created and nobody asked for that before; return what it is then."""
        made = self._made.pop(name, None)
        if made is None:
            container = await self._find(name)
            status = await self._look(name, container)
            if status.phase is ContainerPhase.ABSENT or container is None:
                raise NotFound("container", name)
            if status.phase is not ContainerPhase.CREATED:
                return status
            made = _Made(container["Id"], TenantId(container["Config"]["Labels"][TENANT_LABEL]))
        with node_failures():
            is_ours = self._folder(name).claim_start(made.container_id)
        if is_ours:
            await self._ask_to_start(name, made)
        else:
            await self._await_start(name, made)
        return await self.inspect(name)

    async def inspect(self, name: str) -> ContainerStatus:
        """Return what stands behind a name."""
        return await self._look(name, await self._find(name))

    async def list(self, labels: Mapping[str, str]) -> Sequence[ContainerStatus]:
        """Return the containers that bear all these labels, and names that have only a folder."""
        found = await self._engine.list({**self._scope, **labels})
        statuses = [outline_of(container) for container in found]
        if not labels:
            names = {status.name for status in statuses}
            with node_failures():
                statuses += await asyncio.to_thread(_without_container, self._root, names)
        return statuses

    async def wait_exit(self, name: str) -> ContainerStatus:
        """Wait until a container runs no more, whoever started it; return what it is then.

        Where its memory was used up the kernel has killed one process of it: the rest is, too, or
        it would wait for that one for ever.
        """
        with self._news.listening_for(name) as news:
            while True:
                news.clear()
                container = await self._find(name)
                if container is None or phase_of(container) is not ContainerPhase.RUNNING:
                    return await self._look(name, container)
                if self._is_out_of_memory(container):
                    with suppress(NotFound, FailedPrecondition):  # it has ended
                        await self._engine.kill(container["Id"], "SIGKILL")
                await is_set_within(news, _RECHECK_INTERVAL.total_seconds())

    def _is_out_of_memory(self, container: Json) -> bool:
        state = container["State"]
        if state["OOMKilled"]:
            return True
        if not has_killed_for_memory(container["Id"], state["Pid"]):
            return False
        with node_failures():
            self._folder_of(container).note_out_of_memory()
        return True

    async def stop(self, name: str, *, grace: timedelta) -> ContainerStatus:
        """End a running container: TERM to its program, KILL to all of it after the grace."""
        container = await self._find(name)
        if container is None or phase_of(container) is not ContainerPhase.RUNNING:
            return await self.inspect(name)
        kill_at = time.monotonic() + grace.total_seconds()
        with node_failures():
            asked = self._folder(name).ask_to_stop(StopRequest(self._clock.now(), kill_at))
        with suppress(NotFound, FailedPrecondition):  # it has ended
            if asked.kill_at > time.monotonic():
                await self._engine.kill(container["Id"], "SIGTERM")
                if (ended := await self._ended_within(name, asked.kill_at)) is not None:
                    return ended
            await self._engine.kill(container["Id"], "SIGKILL")
        kill_wait_ends_at = time.monotonic() + _KILL_WAIT_MAX.total_seconds()
        ended = await self._ended_within(name, kill_wait_ends_at)
        if ended is None:
            raise Unavailable(f"the end of container {name}")
        return ended

    async def remove(self, name: str) -> None:
        """Delete a container that does not run, with its output; an absent one is no error.

        Raises FailedPrecondition while it runs, Unavailable while an earlier call removes it.
        """
        self._made.pop(name, None)
        if (container := await self._find(name)) is not None:
            try:
                await self._engine.delete(container["Id"])
            except NotFound:
                pass
            except FailedPrecondition as error:
                if phase_of(container) is ContainerPhase.RUNNING:
                    raise
                raise EngineFailed(error.message) from error
        with node_failures():
            await asyncio.to_thread(self._folder(name).discard)

    async def read_progress(self, name: str, *, offset: int) -> ProgressData:
        """Return what the program has appended to its progress since `offset`."""
        progress = self._folder(name).files / PROGRESS
        return await asyncio.to_thread(leavings.read_progress, progress, offset=offset)

    async def list_output(
        self, name: str, path: str, *, files_max: int, bytes_max: int
    ) -> Sequence[LeftFile]:
        """Return the files that it left at a path below $MODELYARD_OUTPUTS."""
        outputs = self._folder(name).files / OUTPUTS
        with node_failures():
            return await asyncio.to_thread(
                leavings.list_output, outputs, path, files_max=files_max, bytes_max=bytes_max
            )

    async def list_checkpoint(
        self, name: str, *, files_max: int, bytes_max: int
    ) -> Sequence[LeftFile]:
        """Return the files that it left in $MODELYARD_CHECKPOINT."""
        folder = self._folder(name).files
        with node_failures():
            return await asyncio.to_thread(
                leavings.list_checkpoint, folder, files_max=files_max, bytes_max=bytes_max
            )

    async def last_lines(self, name: str, *, bytes_max: int) -> str:
        """Return the end of its standard error, of its output where it wrote nothing there."""
        try:
            read = partial(self._engine.last_lines, name, count=_LAST_LINES_MAX)
            text = await read(of_errors=True) or await read(of_errors=False)
        except NotFound:
            return ""
        return leavings.end_of(text, bytes_max=bytes_max)

    async def log_location(self, name: str) -> LogLocation:
        """Return where its output is, below the engine's folder of containers."""
        container = await self._find(name)
        container_id = container["Id"] if container else self._folder(name).lost_id()
        if container_id is None:
            raise NotFound("container", name)
        return LogLocation(path=f"{container_id}/{container_id}-json.log")

    async def delete_unused_networks(self, *, unused_min: timedelta = UNUSED_MIN) -> None:
        """Delete the networks of tenants that have no container left, and asked for none lately."""
        await self._networks.delete_unused(unused_min=unused_min)

    # Starting

    async def _ask_to_start(self, name: str, made: "_Made") -> None:
        """Ask the engine for the start; a container that it refuses to start is made anew."""
        try:
            await self._engine.start(made.container_id)
        except InvalidArgument:
            raise
        except (EngineFailed, NotFound, FailedPrecondition) as error:
            self._networks.forget(made.tenant)
            with suppress(NotFound, FailedPrecondition):
                await self._delete_unstarted(name, made.container_id)
            raise EngineFailed(error.message) from error

    async def _await_start(self, name: str, made: "_Made") -> None:
        """Wait for a start that was asked for elsewhere; delete what it can't come to any more."""
        ends_at = time.monotonic() + _STARTING_MAX.total_seconds()  # whatever the clock is set to
        with self._news.listening_for(name) as news:
            while time.monotonic() < ends_at and self._may_still_start(name, made.container_id):
                news.clear()
                if (await self.inspect(name)).phase is not ContainerPhase.CREATED:
                    return
                await is_set_within(news, _STARTING_RECHECK.total_seconds())
        with suppress(NotFound, FailedPrecondition):  # gone already, or it runs by now
            if await self._delete_unstarted(name, made.container_id):
                raise EngineFailed("its start was asked for and never came")

    def _may_still_start(self, name: str, container_id: str) -> bool:
        claimed_at = self._folder(name).claimed_at(container_id)
        return claimed_at is not None and self._clock.now() < claimed_at + _STARTING_MAX

    async def _delete_unstarted(self, name: str, container_id: str) -> bool:
        """Delete what was seen created; return whether it never ran.

        A late start may come in between: what runs the engine does not delete, what has run and
        ended it does. Raises NotFound if it is gone already, FailedPrecondition if it runs.
        """
        await self._engine.delete(container_id)
        return not await self._is_lost(self._folder(name))

    async def _is_lost(self, folder: ContainerFolder) -> bool:
        """Return whether a container that is gone has run: its start was claimed, and came.

        As far as the engine remembers. The answer is written down, since it forgets.
        """
        for container_id in folder.claimed_ids() if folder.lost_id() is None else ():
            has_run = await self._engine.saw_start(container_id, until=self._clock.now())
            with node_failures():
                if has_run:
                    folder.note_lost(container_id)
                else:
                    folder.forget_claim(container_id)
        return folder.lost_id() is not None

    async def _create_tombstone(self, name: str) -> None:
        """Take a free name; somebody else may be quicker."""
        config = {"Image": TOMBSTONE_IMAGE, "Cmd": ["never"], "NetworkDisabled": True}
        config["Labels"] = {**self._scope, TOMBSTONE_LABEL: "true"}
        try:
            await self._engine.create(name, config)
        except NotFound:
            await self._engine.build_empty(TOMBSTONE_IMAGE)

    def _config(self, spec: ContainerSpec, image_id: str, *, network_id: str) -> Json:
        files = self._folder(spec.name).files
        mounts = {part: f"{_MOUNTED_AT}/{part}" for part in _MOUNTED}
        config = container_config(
            spec, self._options.hardening, uid=self._options.users.of(spec.tenant)
        )
        config |= {
            "Image": image_id,
            "Entrypoint": [spec.command[0]],
            "Cmd": list(spec.command[1:]),
            "WorkingDir": mounts[WORK],
            "Labels": {**spec.labels, **self._scope, TENANT_LABEL: spec.tenant},
            "Env": [f"{name}={value}" for name, value in self._environment(spec, mounts).items()],
        }
        config["HostConfig"] |= {
            "NetworkMode": network_id,
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": str(files / part),
                    "Target": target,
                    "ReadOnly": part == INPUTS,
                    "BindOptions": {"Propagation": "rprivate"},
                }
                for part, target in mounts.items()
            ],
        }
        return config

    def _environment(self, spec: ContainerSpec, mounts: Mapping[str, str]) -> Mapping[str, str]:
        return {
            "HOME": mounts[WORK],
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            **thread_environment(spec),
            **spec.environment,
            "MODELYARD_INPUTS": mounts[INPUTS],
            "MODELYARD_OUTPUTS": mounts[OUTPUTS],
            "MODELYARD_CHECKPOINT": mounts[CHECKPOINT],
            "MODELYARD_PROGRESS": mounts[PROGRESS],
        }

    # Seeing

    async def _find(self, name: str) -> Json | None:
        """Return our container of a name; one of another scope is nothing to us."""
        try:
            container = await self._engine.inspect(name)
        except NotFound:
            return None
        labels = container["Config"]["Labels"] or {}
        return container if self._scope.items() <= labels.items() else None

    async def _look(self, name: str, container: Json | None) -> ContainerStatus:
        """Return what stands behind a name.

        One that was not started before the machine was is lost, since a loss of power may have
        taken along that somebody asked for its start.
        """
        folder = self._folder(name)
        with node_failures():
            if container is None:
                is_lost = await self._is_lost(folder)
                phase = ContainerPhase.LOST if is_lost else ContainerPhase.ABSENT
                return ContainerStatus(name, phase)
            status = status_of(container, folder)
            if status.phase is ContainerPhase.CREATED and not folder.is_of_this_boot():
                return replace(status, phase=ContainerPhase.LOST)
        return await self._look_for_end(container, status)

    async def _look_for_end(self, container: Json, status: ContainerStatus) -> ContainerStatus:
        """Return what a container is, and whether its engine saw it end.

        An engine that sees an end takes the container off its network; one that finds it ended when
        it starts does not (seen with 20.10). Nor does one that finds it running then and ends it,
        for want of live-restore; but that remembers the end, and is asked for it.
        """
        if status.exit is None or not is_on_network(container):
            return status
        if await self._engine.saw_end(container["Id"], until=self._clock.now()):
            return status
        if status.exit.code == _UNKNOWN_CODE and not status.exit.is_oom:
            return replace(status, phase=ContainerPhase.LOST, exit=None)
        return replace(status, exit=replace(status.exit, is_end_seen=False))

    async def _ended_within(self, name: str, until: float) -> ContainerStatus | None:
        with suppress(TimeoutError):
            async with asyncio.timeout(until - time.monotonic()):
                return await self.wait_exit(name)
        return None

    async def _sweep(self) -> None:
        """Delete networks that nobody uses, again and again."""
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL.total_seconds())
            try:
                await self.delete_unused_networks()
            except ModelyardError as error:
                logger.warning("networks not tidied", error=error.message)

    def _folder(self, name: str) -> ContainerFolder:
        return ContainerFolder(self._root / name)

    def _folder_of(self, container: Json) -> ContainerFolder:
        return self._folder(name_of(container))


_MOUNTED: Final = (WORK, INPUTS, OUTPUTS, CHECKPOINT, PROGRESS)


def _first(group: BaseExceptionGroup[ModelyardError]) -> ModelyardError:
    """Return one of the errors that things done side by side have met."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _without_container(root: Path, names: Container[str]) -> list[ContainerStatus]:
    """Return the folders that have none of these names."""
    found = []
    for folder in named_folders(root):
        if folder.name not in names:
            with suppress(FileNotFoundError):  # somebody removes it
                made_at = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
                found.append(
                    ContainerStatus(folder.name, ContainerPhase.ABSENT, created_at=made_at)
                )
    return found
