"""Removing what an engine does not let go of at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from services.chassis.clock import SystemClock
from services.chassis.errors import FailedPrecondition, Unavailable
from services.scheduler.adapters.runtime_docker.engine import Engine
from services.scheduler.adapters.runtime_docker.runtime import SCOPE_LABEL, DockerRuntime
from tests.unit.scheduler_runner.builders import docker_options


@dataclass
class RefusingEngine:
    """Has one container, which it does not delete."""

    status: str

    async def inspect(self, name: str) -> dict[str, Any]:
        return {
            "Id": "1",
            "Name": f"/{name}",
            "Config": {"Labels": {SCOPE_LABEL: "tests"}},
            "State": {"Status": self.status},
        }

    async def delete(self, _container_id: str) -> None:
        raise FailedPrecondition("why")


@pytest.mark.parametrize(
    ("status", "refusal"),
    [("running", FailedPrecondition), ("removing", Unavailable), ("exited", Unavailable)],
)
async def test_removal_may_be_tried_again_unless_it_runs(
    tmp_path: Path, status: str, refusal: type[Exception]
) -> None:
    """An earlier call for it, whose answer was not waited for, may still be under way."""
    engine = cast("Engine", RefusingEngine(status))
    runtime = DockerRuntime(engine, docker_options(tmp_path), SystemClock())

    with pytest.raises(refusal):
        await runtime.remove("a")
