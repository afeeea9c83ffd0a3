"""Whether the engine saw a container end: by its network, and by what the engine remembers."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest

from services.chassis.clock import SystemClock
from services.chassis.errors import Unavailable
from services.scheduler.adapters.runtime_docker.engine import Engine
from services.scheduler.adapters.runtime_docker.folder import ContainerFolder
from services.scheduler.adapters.runtime_docker.runtime import SCOPE_LABEL, DockerRuntime
from services.scheduler.domain.attempts.runtime import ContainerPhase, ContainerStatus
from tests.unit.scheduler_runner.builders import docker_options

AT = "2026-11-22T12:00:00.123456789Z"


@dataclass
class AnEngine:
    """Has one container, which has ended."""

    code: int = 7
    endpoint_id: str = ""
    remembers_end: bool = False
    question_count: int = 0

    async def inspect(self, name: str) -> dict[str, Any]:
        state = {"Status": "exited", "ExitCode": self.code, "OOMKilled": False}
        return {
            "Id": "1",
            "Name": f"/{name}",
            "Created": AT,
            "Config": {"Labels": {SCOPE_LABEL: "tests"}},
            "State": {**state, "StartedAt": AT, "FinishedAt": AT},
            "NetworkSettings": {"Networks": {"any": {"EndpointID": self.endpoint_id}}},
        }

    async def saw_end(self, container_id: str, *, until: datetime) -> bool:
        assert (container_id, until.tzinfo is not None) == ("1", True)
        self.question_count += 1
        return self.remembers_end


async def look(engine: AnEngine, root: Path) -> ContainerStatus:
    runtime = DockerRuntime(cast("Engine", engine), docker_options(root), SystemClock())
    return await runtime.inspect("a")


@pytest.mark.parametrize(
    ("engine", "is_end_seen", "question_count"),
    [
        (AnEngine(), True, 0),
        (AnEngine(endpoint_id="left", remembers_end=True), True, 1),
        (AnEngine(endpoint_id="left"), False, 1),
        (AnEngine(code=255), True, 0),
    ],
    ids=["taken off its network", "remembered", "neither", "said 255 itself"],
)
async def test_end_is_seen_if_anything_tells_of_it(
    tmp_path: Path, engine: AnEngine, *, is_end_seen: bool, question_count: int
) -> None:
    status = await look(engine, tmp_path)

    assert status.exit is not None
    assert (status.exit.code, status.exit.is_end_seen) == (engine.code, is_end_seen)
    assert engine.question_count == question_count


async def test_unseen_end_without_an_exit_code_is_a_loss(tmp_path: Path) -> None:
    status = await look(AnEngine(code=255, endpoint_id="left"), tmp_path)

    assert (status.phase, status.exit) == (ContainerPhase.LOST, None)


async def test_unseen_end_for_memory_is_no_loss_since_we_know_how_it_ended(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    ContainerFolder(tmp_path / "a").note_out_of_memory()

    status = await look(AnEngine(code=255, endpoint_id="left"), tmp_path)

    assert status.exit is not None
    assert (status.exit.is_oom, status.exit.is_end_seen) == (True, False)


async def test_node_that_can_not_be_looked_at_now_may_be_looked_at_later(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "stop.json").symlink_to("stop.json")  # in circles: the system refuses

    with pytest.raises(Unavailable):
        await look(AnEngine(), tmp_path)
