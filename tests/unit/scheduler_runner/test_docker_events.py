"""An engine whose events can't be followed is told of once, not at each try."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from loguru import logger

from services.chassis.clock import SystemClock
from services.scheduler.adapters.runtime_docker.engine import Engine
from services.scheduler.adapters.runtime_docker.runtime import DockerRuntime
from tests.support.eventually import eventually
from tests.unit.scheduler_runner.builders import docker_options

AN_EVENT = {"timeNano": 1, "Actor": {"Attributes": {}}}


@dataclass
class FailingEngine:
    """Ends each stream of events at once; on the third there is one event before."""

    try_count: int = 0

    async def read_events(
        self, _: Mapping[str, str], *, since_ns: int, on_event: Callable[[Any], None]
    ) -> str:
        assert since_ns > 0
        self.try_count += 1
        if self.try_count == 3:
            on_event(AN_EVENT)
        return f"failure {self.try_count}"


@pytest.fixture
def told() -> Iterator[list[str]]:
    told: list[str] = []
    sink = logger.add(told.append, format="{message} {extra}")
    yield told
    logger.remove(sink)


async def test_failures_of_the_event_stream_are_told_once_a_change(
    tmp_path: Path, told: list[str]
) -> None:
    engine = FailingEngine()
    runtime = DockerRuntime(cast("Engine", engine), docker_options(tmp_path), SystemClock())
    stopping = asyncio.Event()

    async def has_tried_often() -> bool:
        return engine.try_count >= 5

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(runtime.follow(stopping))
        await eventually(has_tried_often, what="five tries to follow the engine's events")
        stopping.set()

    assert [message.split(" {")[0] for message in told] == [
        "engine's events are not followed",
        "engine's events are followed again",
        "engine's events are not followed",
    ]
    assert "failure 1" in told[0]
    assert "failure 3" in told[2]
