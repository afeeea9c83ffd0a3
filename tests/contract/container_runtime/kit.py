"""What the suite needs of a runtime: opening it, opening it again, and shorthands."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.runtime import (
    ContainerSpec,
    ContainerStatus,
)
from services.scheduler.use_cases.attempts.ports import ContainerRuntime
from tests.support.eventually import eventually

IMAGE = "modelyard/base"
TENANT = TenantId("default")
NO_GRACE = timedelta(0)


@dataclass
class Kit:
    """A runtime, how to open it a second time as a restarted runner does, and shorthands."""

    open_runtime: Callable[[], ContainerRuntime]
    root: Path
    runtime: ContainerRuntime = field(init=False)
    _numbers: "count[int]" = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.runtime = self.open_runtime()

    def restart_runner(self) -> None:
        """Forget everything that is only in memory."""
        self.runtime = self.open_runtime()

    def spec(self, program: str, **changes: Any) -> ContainerSpec:
        """Return a spec that runs a Python program."""
        given: dict[str, Any] = {
            "name": f"container-{next(self._numbers)}",
            "tenant": TENANT,
            "image": IMAGE,
            "command": ("python", "-c", program),
        }
        return ContainerSpec(**(given | changes))

    async def started(self, program: str, **changes: Any) -> str:
        """Create and start a program; return the container's name."""
        spec = self.spec(program, **changes)
        await self.runtime.create(spec)
        await self.runtime.start(spec.name)
        return spec.name

    async def ran(self, program: str, **changes: Any) -> ContainerStatus:
        """Run a program to its end."""
        return await self.runtime.wait_exit(await self.started(program, **changes))

    def log_files(self, name: str) -> list[Path]:
        """Return the generations of its output, oldest first."""
        log = self.root / self.runtime.log_location(name).path
        older = sorted(log.parent.glob(f"{log.name}.*"), key=lambda path: -int(path.suffix[1:]))
        return [*older, log]

    def records(self, name: str) -> list[dict[str, str]]:
        """Return its output as written, record by record."""
        return [
            json.loads(line)
            for path in self.log_files(name)
            for line in path.read_text(encoding="utf-8").splitlines()
        ]

    def output(self, name: str, stream: str = "stdout") -> str:
        """Return what it wrote to one stream."""
        return "".join(row["log"] for row in self.records(name) if row["stream"] == stream)

    async def said(self, name: str, text: str) -> None:
        """Wait until its output holds this text."""
        log = self.log_files(name)[-1]

        async def has_said() -> bool:
            return log.exists() and text in self.output(name)

        await eventually(has_said, what=f"{name} says {text!r}")


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that nobody reaps does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
