"""Runtimes under test: each fixture parameter is one implementation of the port."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from aiodocker import Docker

from services.chassis.clock import SystemClock
from services.scheduler.adapters.runtime_docker.engine import Engine
from services.scheduler.adapters.runtime_docker.runtime import DockerOptions, DockerRuntime
from services.scheduler.adapters.runtime_process.runtime import ProcessRuntime
from services.scheduler.domain.attempts.runtime import ContainerPhase
from tests.contract.container_runtime.kit import (
    ABSENT,
    HARDENING,
    IMAGE,
    NO_GRACE,
    USERS,
    WITH_VOLUME,
    DockerKit,
    Kit,
)
from tests.support.docker_engine import DockerEngine

CALL_TIMEOUT = timedelta(seconds=10)
WORK_TIMEOUT = timedelta(seconds=30)


@pytest.fixture(params=["process", "docker"])
def kit(request: pytest.FixtureRequest) -> Kit:
    """Every runtime, one after another."""
    kit: Kit = request.getfixturevalue(f"{request.param}_kit")
    return kit


@pytest.fixture
async def process_kit(tmp_path: Path) -> AsyncIterator[Kit]:
    root = tmp_path / "containers"
    images = {IMAGE: Path(sys.executable).parent.parent}
    kit = Kit(lambda: ProcessRuntime(root, images=images), root, log_root=root)
    yield kit
    await end_all(kit)


@pytest.fixture
async def docker_kit(tmp_path: Path, docker_engine: DockerEngine) -> AsyncIterator[DockerKit]:
    async with open_docker_kit(tmp_path / "containers", docker_engine) as kit:
        yield kit


@pytest.fixture
async def other_docker_kit(tmp_path: Path, docker_engine: DockerEngine) -> AsyncIterator[DockerKit]:
    async with open_docker_kit(tmp_path / "other", docker_engine) as kit:
        yield kit


@asynccontextmanager
async def open_docker_kit(root: Path, docker_engine: DockerEngine) -> AsyncIterator[DockerKit]:
    """Give a runtime with a scope of its own, and leave nothing of it on the engine."""
    scope = f"test-{secrets.token_hex(4)}"
    options = DockerOptions(
        scope=scope,
        containers_root=root,
        images={
            IMAGE: docker_engine.images[IMAGE],
            ABSENT: f"{ABSENT}:latest",
            WITH_VOLUME: f"{WITH_VOLUME}:latest",
        },
        users=USERS,
        is_host_fenced=True,
        pull_timeout=timedelta(seconds=5),
        hardening=HARDENING,
    )
    stopping = asyncio.Event()
    async with AsyncExitStack() as clients, asyncio.TaskGroup() as tasks:

        def open_engine() -> Engine:
            docker = Docker(docker_engine.url)
            clients.push_async_callback(docker.close)
            return Engine(docker, call_timeout=CALL_TIMEOUT, work_timeout=WORK_TIMEOUT)

        def open_runtime() -> DockerRuntime:
            runtime = DockerRuntime(open_engine(), options, SystemClock())
            tasks.create_task(runtime.follow(stopping))
            return runtime

        kit = DockerKit(
            open_runtime,
            root,
            log_root=docker_engine.root_dir / "containers",
            engine=docker_engine,
            client=open_engine(),
            scope=scope,
        )
        yield kit
        await end_all(kit)
        for status in await kit.runtime.list({}):
            await kit.runtime.remove(status.name)
        await kit.runtime.delete_unused_networks(unused_min=timedelta(0))
        stopping.set()


async def end_all(kit: Kit) -> None:
    for status in await kit.runtime.list({}):
        if status.phase is ContainerPhase.RUNNING:
            await kit.runtime.stop(status.name, grace=NO_GRACE)
