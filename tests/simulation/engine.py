"""A container engine in memory, and a runner's way to it.

Owns: `Engine`, which outlives every process of ours and carries out what reached it; and
`MemoryRuntime`, the `ContainerRuntime` port on it. What a program does stands in its command:
`run <seconds> <exit code>`; of several tasks that take an odd time the last one alone fails, once
the others have ended. Always holds, as `tests/contract/container_runtime` has it: a name is
created, started and ended at most once each, or entombed before.

The engine goes away and comes back, forgets how a program ended, loses containers and answers with
what was true a moment ago; it never calls a program ended that runs.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import PurePath
from random import Random
from typing import Final

from services.chassis.clock import Clock
from services.chassis.errors import FailedPrecondition, NotFound, Unavailable
from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import LogLocation
from services.scheduler.domain.attempts.runtime import (
    Capabilities,
    Capability,
    ContainerExit,
    ContainerPhase,
    ContainerSpec,
    ContainerStatus,
    EndCause,
    LeftFile,
    Listening,
    ProgressData,
)
from services.scheduler.domain.identities import AttemptId
from services.scheduler.use_cases.attempts.ports import StoredFile
from tests.simulation.wire import Violation, Wire
from tests.support.sim_loop import outside

FILE_BYTES: Final = 5
TERM: Final = 15
KILL: Final = 9
_LATER_S: Final = 5.0
"""Long enough for the others' ends to be recorded, most of the time."""


@dataclass(slots=True)
class Container:
    """What stands behind a name."""

    spec: ContainerSpec | None
    status: ContainerStatus
    before: ContainerStatus
    """What it was before its last change."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    start_count: int = 0


def _end_of(spec: ContainerSpec) -> tuple[float, int]:
    """Return after how many seconds a program ends, and with which exit code."""
    _, seconds, exit_code = spec.command
    lasts_s, code = int(seconds), int(exit_code)
    task_count = int(spec.environment.get("MODELYARD_TASK_COUNT", "1"))
    if code == 0 or task_count == 1 or lasts_s % 2 == 0:
        return lasts_s, code
    is_last = spec.environment["MODELYARD_TASK"] == str(task_count - 1)
    return (lasts_s + _LATER_S, code) if is_last else (lasts_s, 0)


class Engine:
    """One node's engine, on a clock of its own."""

    def __init__(
        self,
        clock: Clock,
        chance: Random,
        on_change: Callable[["Engine", Container], None],
        *,
        allows_mixed_tenants: bool,
    ) -> None:
        self.allows_mixed_tenants: Final = allows_mixed_tenants
        """It would run anybody's beside anybody's all the same: nothing hides a wrong placement."""
        self.containers: dict[str, Container] = {}
        self.is_up = True
        self._up_since_s = clock.monotonic()
        self.stale_odds = 0.0
        """How often an answer is what was true before the last change."""
        self._clock = clock
        self._chance = chance
        self._on_change = on_change

    # What the port asks for. Each is done at once, when it arrives.

    def ping(self) -> None:
        """Raise Unavailable while it is down."""
        self._require_up()

    def create(self, spec: ContainerSpec) -> None:
        """Make a container, unless there is one; raises FailedPrecondition for a tombstone."""
        self._require_up()
        there = self.containers.get(spec.name)
        if there is None:
            status = ContainerStatus(
                spec.name, ContainerPhase.CREATED, spec.labels, created_at=self._clock.now()
            )
            self._put(spec, status)
        elif there.status.phase is ContainerPhase.TOMBSTONE:
            raise FailedPrecondition(f"{spec.name} was entombed")

    def entomb(self, name: str) -> ContainerStatus:
        """Take a name that was not started."""
        self._require_up()
        phase = self.truth(name).phase
        if phase in {ContainerPhase.ABSENT, ContainerPhase.CREATED}:
            labels = self.truth(name).labels
            status = ContainerStatus(
                name, ContainerPhase.TOMBSTONE, labels, created_at=self._clock.now()
            )
            self._put(None, status)
        return self.truth(name)

    def there(self, name: str) -> Container:
        """Return the container that has a name now; raises NotFound."""
        self._require_up()
        if name not in self.containers:
            raise NotFound("container", name)
        return self.containers[name]

    def start(self, container: Container) -> ContainerStatus:
        """Start what is created, and nothing else: not another one of its name (ADR-0016)."""
        self._require_up()
        if self.containers.get(container.status.name) is not container:
            raise NotFound("container", container.status.name)
        if container.status.phase is ContainerPhase.CREATED:
            self._run(container)
        return container.status

    def inspect(self, name: str) -> ContainerStatus:
        """Tell what stands behind a name, or stood a moment ago."""
        self._require_up()
        container = self.containers.get(name)
        if container is not None and self._chance.random() < self.stale_odds:
            return container.before
        return self.truth(name)

    def bearing(self, labels: Mapping[str, str]) -> Sequence[ContainerStatus]:
        """Tell of all that bear these labels."""
        self._require_up()
        return [
            container.status
            for container in self.containers.values()
            if labels.items() <= container.status.labels.items()
        ]

    def stop(self, name: str, *, grace: timedelta) -> None:
        """Ask a program to end; it does within its grace."""
        self._require_up()
        container = self.containers.get(name)
        if container is None or container.status.phase is not ContainerPhase.RUNNING:
            return
        heeds_s = grace.total_seconds() * self._chance.random() * 1.5
        is_killed = heeds_s > grace.total_seconds()
        end = (128 + KILL, KILL) if is_killed else (128 + TERM, TERM)
        delay_s = min(heeds_s, grace.total_seconds())
        self._later(delay_s, lambda: self._end(container, *end, cause=EndCause.STOP))

    def remove(self, name: str) -> None:
        """Delete a container; raises FailedPrecondition while it runs."""
        self._require_up()
        if self.truth(name).phase is ContainerPhase.RUNNING:
            raise FailedPrecondition(f"{name} runs")
        self._drop(name)

    def left(self, name: str, path: str) -> Sequence[LeftFile]:
        """Return the one file that each program leaves at each path."""
        self._require_up()
        if name not in self.containers:
            raise NotFound("output", path)
        return [LeftFile(PurePath(path).name, PurePath("/", name, path))]

    def kept(self, name: str) -> Sequence[LeftFile]:
        """Return what a program keeps for the next attempt; nothing once it is gone."""
        self._require_up()
        return [LeftFile("state", PurePath("/", name, "state"))] if name in self.containers else []

    # What happens to it.

    def truth(self, name: str) -> ContainerStatus:
        """Return what stands behind a name."""
        container = self.containers.get(name)
        return container.status if container else ContainerStatus(name, ContainerPhase.ABSENT)

    def running(self) -> list[Container]:
        """Return what runs."""
        return [
            container
            for container in self.containers.values()
            if container.status.phase is ContainerPhase.RUNNING
        ]

    def go_down(self, *, ends_all: bool) -> None:
        """Answer nobody; with `ends_all` what runs ends, and nobody sees how."""
        self.is_up = False
        if ends_all:
            for container in self.running():
                self._change(container, replace(container.status, phase=ContainerPhase.LOST))
                container.ended.set()

    def come_back(self) -> None:
        """Answer again."""
        if not self.is_up:
            self.is_up, self._up_since_s = True, self._clock.monotonic()

    @property
    def up_for_s(self) -> float:
        """Return how long it has been there."""
        return self._clock.monotonic() - self._up_since_s if self.is_up else 0.0

    def kill_one(self) -> None:
        """End some program from outside, as an operator or the kernel does."""
        if running := self.running():
            self._end(self._chance.choice(running), 128 + KILL, KILL, cause=None)

    def lose_one(self, is_known: Callable[[str], bool]) -> None:
        """End some program and delete its container behind everybody's back.

        One whose start is recorded: of any other nobody can know that it ever ran.
        """
        if known := [each for each in self.running() if is_known(each.status.name)]:
            container = self._chance.choice(known)
            self._change(container, replace(container.status, phase=ContainerPhase.LOST))
            container.ended.set()
            self._drop(container.status.name)

    def _run(self, container: Container) -> None:
        assert container.spec is not None, "what is created has a description"
        lasts_s, code = _end_of(container.spec)
        container.start_count += 1
        now = self._clock.now()
        running = replace(
            container.status, phase=ContainerPhase.RUNNING, started_at=now, host="127.0.0.1"
        )
        self._change(container, running)
        self._later(lasts_s, lambda: self._end(container, code, None, cause=None))
        if (limit := container.spec.run_time_max) is not None:
            self._later(
                limit.total_seconds(),
                lambda: self._end(container, 128 + KILL, KILL, cause=EndCause.TIME_LIMIT),
            )

    def _end(
        self, container: Container, code: int, signal: int | None, *, cause: EndCause | None
    ) -> None:
        if container.status.phase is not ContainerPhase.RUNNING:
            return
        started_at = container.status.started_at
        assert started_at is not None, "what runs has started"
        end = ContainerExit(code, signal, cause, started_at, self._clock.now())
        self._change(container, replace(container.status, phase=ContainerPhase.EXITED, exit=end))
        container.ended.set()

    def _put(self, spec: ContainerSpec | None, status: ContainerStatus) -> None:
        before = self.truth(status.name)
        container = Container(spec, status, before)
        self.containers[status.name] = container
        self._on_change(self, container)

    def _change(self, container: Container, status: ContainerStatus) -> None:
        container.before, container.status = container.status, status
        self._on_change(self, container)

    def _drop(self, name: str) -> None:
        container = self.containers.pop(name, None)
        if container is not None:
            self._change(container, ContainerStatus(name, ContainerPhase.ABSENT))

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        outside(lambda: loop.call_later(seconds, act))

    def _require_up(self) -> None:
        if not self.is_up:
            raise Unavailable("container runtime")


class MemoryRuntime:
    """One process's way to its node's engine; implements `ports.ContainerRuntime`."""

    def __init__(self, engine: Engine, wire: Wire) -> None:
        self._engine = engine
        self._wire = wire

    @property
    def capabilities(self) -> Capabilities:
        """Declare what it can do beyond the core."""
        mixed = {Capability.MIXED_TENANTS} if self._engine.allows_mixed_tenants else set()
        return Capabilities("memory", frozenset({Capability.RUN_TIME_LIMIT} | mixed))

    async def ping(self) -> None:
        """Raise Unavailable unless the engine answers."""
        await self._wire.call(self._engine.ping)

    async def tidy(self) -> None:
        """Delete nothing: what is half made is nowhere here."""

    async def follow(self, stopping: asyncio.Event) -> None:
        """Keep nothing up to date: each answer is asked for."""
        await stopping.wait()

    def listening(self, port_count: int) -> Listening:
        """Return where a server may listen."""
        return Listening("127.0.0.1", tuple(range(1, port_count + 1)))

    async def create(self, spec: ContainerSpec) -> None:
        """Make a container, unless there is one."""
        await self._wire.call(lambda: self._engine.create(spec))

    async def entomb(self, name: str) -> ContainerStatus:
        """Take a name that was not started."""
        return await self._wire.call(lambda: self._engine.entomb(name))

    async def start(self, name: str) -> ContainerStatus:
        """Start what is created."""
        container = await self._wire.call(lambda: self._engine.there(name))
        return await self._wire.call(lambda: self._engine.start(container))

    async def inspect(self, name: str) -> ContainerStatus:
        """Return what stands behind a name."""
        return await self._wire.call(lambda: self._engine.inspect(name))

    async def list(self, labels: Mapping[str, str]) -> Sequence[ContainerStatus]:
        """Return the containers that bear all these labels."""
        return await self._wire.call(lambda: self._engine.bearing(labels))

    async def wait_exit(self, name: str) -> ContainerStatus:
        """Wait while it runs."""
        container = await self._wire.call(lambda: self._engine.containers.get(name))
        if container is not None and container.status.phase is ContainerPhase.RUNNING:
            await container.ended.wait()
        return await self._wire.call(lambda: self._engine.truth(name))

    async def stop(self, name: str, *, grace: timedelta) -> ContainerStatus:
        """End it, and wait for that."""
        await self._wire.call(lambda: self._engine.stop(name, grace=grace))
        return await self.wait_exit(name)

    async def remove(self, name: str) -> None:
        """Delete a container or tombstone."""
        await self._wire.call(lambda: self._engine.remove(name))

    async def read_progress(self, name: str, *, offset: int) -> ProgressData:
        """Return nothing new: programs here are silent."""
        return ProgressData(b"", offset)

    async def list_output(
        self, name: str, path: str, *, files_max: int, bytes_max: int
    ) -> Sequence[LeftFile]:
        """Return what it left."""
        return await self._wire.call(lambda: self._engine.left(name, path))

    async def list_checkpoint(
        self, name: str, *, files_max: int, bytes_max: int
    ) -> Sequence[LeftFile]:
        """Return the one file that each program keeps for the next attempt."""
        return await self._wire.call(lambda: self._engine.kept(name))

    async def last_lines(self, name: str, *, bytes_max: int) -> str:
        """Return nothing: programs here are silent."""
        return ""

    async def log_location(self, name: str) -> LogLocation:
        """Return where its output is."""
        await self._wire.call(lambda: self._engine.there(name))
        return LogLocation(path=f"{name}/container.log")


class MemoryArtifacts:
    """The registry's bytes, seen from a node; implements `ports.ArtifactStore`."""

    def __init__(self, keep: Callable[[TenantId, str], None], wire: Wire) -> None:
        self._keep = keep
        self._wire = wire

    @asynccontextmanager
    async def held(
        self, tenant: TenantId, digests: Sequence[str]
    ) -> AsyncIterator[Mapping[str, PurePath]]:
        """Give every digest that is asked for."""
        if digests:
            await self._wire.call(lambda: None)
        yield {digest: PurePath("/cache", digest) for digest in digests}

    async def put(self, tenant: TenantId, file: PurePath, *, attempt_id: AttemptId) -> StoredFile:
        """Store a file's bytes, which are its attempt's name: no two attempts leave the same."""
        if attempt_id not in str(file):
            raise Violation(f"{attempt_id} stores {file}, which another attempt left")
        digest = f"sha256:{hashlib.sha256(str(file).encode()).hexdigest()}"
        await self._wire.call(lambda: self._keep(tenant, digest))
        return StoredFile(digest, FILE_BYTES)
