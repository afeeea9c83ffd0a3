"""What the suite needs of a runtime: opening it, opening it again, and shorthands."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from services.chassis.errors import Unavailable
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.runtime_docker.engine import Engine
from services.scheduler.adapters.runtime_docker.hardening import Hardening, Users
from services.scheduler.adapters.runtime_docker.runtime import DockerRuntime
from services.scheduler.domain.attempts.runtime import (
    Capability,
    ContainerSpec,
    ContainerStatus,
)
from services.scheduler.use_cases.attempts.ports import ContainerRuntime
from tests.support.docker_engine import DockerEngine
from tests.support.eventually import eventually

IMAGE = "modelyard/base"
ABSENT, WITH_VOLUME = "modelyard/absent", "modelyard/with-volume"
TENANT = TenantId("default")
NO_GRACE = timedelta(0)
WAITS = "import time; print('up'); time.sleep(60)"
"""A program that says so and runs on."""
NOT_AT_ONCE = "import time; time.sleep(1)"
"""Before what uses up the memory: the engine does not see what ends a container before it has told
of its start."""
USERS = Users(first=200_000, count=50_000)
HARDENING = Hardening(
    pids_max=64,
    open_files_max=1024,
    tmp_bytes=16 << 20,
    shared_memory_bytes=16 << 20,
    log_file_bytes=16 << 20,
    log_files_max=4,
)


@dataclass
class Kit:
    """A runtime, how to open it a second time as a restarted runner does, and shorthands."""

    open_runtime: Callable[[], ContainerRuntime]
    root: Path
    """Of the containers' folders."""
    log_root: Path
    """Log locations are relative to it."""
    runtime: ContainerRuntime = field(init=False)
    _prefix: str = field(init=False, default_factory=lambda: f"container-{secrets.token_hex(4)}")
    """An engine has all tests' containers."""
    _numbers: "count[int]" = field(init=False, default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.runtime = self.open_runtime()

    def offers(self, capability: Capability) -> bool:
        """Return whether the runtime declares a capability."""
        return capability in self.runtime.capabilities.offered

    def require(self, capability: Capability) -> None:
        """Leave the test out where the runtime does not declare a capability."""
        if not self.offers(capability):
            pytest.skip(f"{self.runtime.capabilities.runtime} does not offer {capability}")

    def _mark(self, name: str) -> str:
        return f"{self.root}/{name}."

    def files(self, name: str) -> Path:
        """Return where a container's work, outputs and so on lie on this machine."""
        return self.root / name

    def as_laid_out_before_a_boot(self, name: str) -> None:
        """Let a container's files be of an earlier boot of this machine."""
        config = self.root / name / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"boot_id": "earlier"}))

    def restart_runner(self) -> None:
        """Forget everything that is only in memory."""
        self.runtime = self.open_runtime()

    def spec(self, program: str, **changes: Any) -> ContainerSpec:
        """Return a spec that runs a Python program."""
        name = f"{self._prefix}-{next(self._numbers)}"
        given: dict[str, Any] = {
            "name": name,
            "tenant": TENANT,
            "image": IMAGE,
            "command": ("python", "-c", f"{program}\n# {self._mark(name)}"),
        }
        return ContainerSpec(**(given | changes))

    def processes_of(self, name: str) -> list[int]:
        """Return this machine's processes that run a container's program, forks included."""
        return [pid for pid in running_processes() if self._mark(name) in command_line(pid)]

    async def started(self, program: str, **changes: Any) -> str:
        """Create and start a program; return the container's name."""
        spec = self.spec(program, **changes)
        await self.runtime.create(spec)
        await self.runtime.start(spec.name)
        return spec.name

    async def ran(self, program: str, **changes: Any) -> ContainerStatus:
        """Run a program to its end."""
        return await self.runtime.wait_exit(await self.started(program, **changes))

    async def log_files(self, name: str) -> list[Path]:
        """Return the generations of its output, oldest first."""
        location = await self.runtime.log_location(name)
        log = self.log_root / location.path
        older = sorted(log.parent.glob(f"{log.name}.*"), key=lambda path: -int(path.suffix[1:]))
        return [*older, log]

    async def records(self, name: str) -> list[dict[str, str]]:
        """Return its output as written, record by record, but for one that is being written."""
        return [
            json.loads(line)
            for path in await self.log_files(name)
            for line in path.read_bytes().splitlines(keepends=True)
            if line.endswith(b"\n")
        ]

    async def output(self, name: str, stream: str = "stdout") -> str:
        """Return what it wrote to one stream."""
        return "".join(row["log"] for row in await self.records(name) if row["stream"] == stream)

    async def said(self, name: str, text: str) -> None:
        """Wait until its output holds this text."""
        log = (await self.log_files(name))[-1]

        async def has_said() -> bool:
            return log.exists() and text in await self.output(name)

        await eventually(has_said, what=f"{name} says {text!r}")


@dataclass
class DockerKit(Kit):
    """A Docker runtime, and its engine."""

    runtime: DockerRuntime = field(init=False)
    engine: DockerEngine = field(kw_only=True)
    client: Engine = field(kw_only=True)
    """Past the runtime, as somebody else would use the engine."""
    scope: str = field(kw_only=True)

    @override
    def files(self, name: str) -> Path:
        return self.root / name / "files"

    @override
    def as_laid_out_before_a_boot(self, name: str) -> None:
        (self.root / name / "boot").write_text("earlier")

    async def image_with_volume(self) -> str:
        """Build an image that declares a volume; return its name."""
        await asyncio.to_thread(self._build, WITH_VOLUME, "VOLUME /data")
        return WITH_VOLUME

    def _build(self, image: str, instruction: str) -> None:
        file = self.root.parent / "Dockerfile"
        file.write_text(f"FROM {self.engine.images[IMAGE]}\n{instruction}\n")
        engine = self.engine.own.engine
        engine.build({"Dockerfile": file}, [f"{image}:latest"], arguments={}, labels={})

    async def container_id(self, name: str) -> str:
        return str((await self.client.inspect(name))["Id"])

    async def networks(self, tenant: TenantId) -> list[str]:
        labels = {"modelyard.scope": self.scope, "modelyard.tenant": tenant}
        return [network["Id"] for network in await self.client.networks(labels)]

    async def is_gone(self) -> bool:
        try:
            await self.runtime.ping()
        except Unavailable:
            return True
        return False

    async def answers(self) -> None:
        """Wait until the engine answers, and calls that it has left unanswered are over."""

        async def is_there() -> bool:
            return not await self.is_gone()

        for _ in range(5):  # one that is over just now may open the breaker once more
            await eventually(is_there, what="the engine answers")

    async def tell_to_end(self, name: str) -> None:
        """Let a program end that waits for a file `end`; return when it has."""
        (self.files(name) / "work" / "end").touch()
        await eventually(self.has_no_process(name), what="the program has ended")

    def has_no_process(self, name: str) -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:
            return not self.processes_of(name)

        return check


def running_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if is_running(int(path.name))]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that nobody reaps does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
