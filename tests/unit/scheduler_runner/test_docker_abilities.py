"""An engine that can't keep what containers are bounded by runs none."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from services.chassis.clock import SystemClock
from services.chassis.errors import Unavailable
from services.scheduler.adapters.runtime_docker.abilities import lacking, machine_has_swap
from services.scheduler.adapters.runtime_docker.engine import Engine
from services.scheduler.adapters.runtime_docker.runtime import DockerRuntime
from tests.unit.scheduler_runner.builders import docker_options

ABLE = {
    "MemoryLimit": True,
    "SwapLimit": True,
    "CpuCfsPeriod": True,
    "CpuCfsQuota": True,
    "PidsLimit": True,
    "SecurityOptions": ["name=apparmor", "name=seccomp,profile=default"],
}


@dataclass
class AnsweringEngine:
    """Tells this of itself."""

    told: dict[str, Any]

    async def info(self) -> dict[str, Any]:
        return self.told


@pytest.mark.parametrize(
    ("lacks", "limit"),
    [
        ({"MemoryLimit": False}, "a memory limit"),
        ({"CpuCfsQuota": False, "CpuCfsPeriod": False}, "a CPU limit"),
        ({"PidsLimit": False}, "a limit of processes"),
        ({"SwapLimit": False}, "a limit of swap"),
        ({"SecurityOptions": ["name=apparmor"]}, "a list of system calls"),
        ({"SecurityOptions": None}, "a list of system calls"),
    ],
)
def test_engine_that_cannot_keep_a_limit_lacks_it(lacks: dict[str, Any], limit: str) -> None:
    assert lacking(ABLE | lacks, has_swap=True) == [limit]


def test_engine_that_tells_nothing_of_itself_lacks_everything() -> None:
    assert len(lacking({}, has_swap=True)) == 5


def test_swap_needs_no_limit_where_there_is_none() -> None:
    assert lacking(ABLE | {"SwapLimit": False}, has_swap=False) == []


def test_machine_has_swap_when_the_kernel_lists_any(tmp_path: Path) -> None:
    swaps = tmp_path / "swaps"
    swaps.write_text("Filename Type Size Used Priority\n")
    assert not machine_has_swap(swaps)

    swaps.write_text("Filename Type Size Used Priority\n/swap file 1 0 -2\n")
    assert machine_has_swap(swaps)


async def test_runtime_is_down_while_its_engine_lacks_something(tmp_path: Path) -> None:
    engine = AnsweringEngine(ABLE | {"PidsLimit": False})
    runtime = DockerRuntime(cast("Engine", engine), docker_options(tmp_path), SystemClock())

    with pytest.raises(Unavailable, match="a limit of processes"):
        await runtime.ping()

    engine.told = ABLE
    await runtime.ping()
