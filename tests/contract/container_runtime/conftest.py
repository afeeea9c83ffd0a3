"""Runtimes under test: each fixture parameter is one implementation of the port."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.scheduler.adapters.runtime_process.runtime import ProcessRuntime
from services.scheduler.domain.attempts.runtime import ContainerPhase
from tests.contract.container_runtime.kit import IMAGE, NO_GRACE, Kit


@pytest.fixture(params=["process"])
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    root = tmp_path / "containers"
    images = {IMAGE: Path(sys.executable).parent.parent}
    kit = Kit(lambda: ProcessRuntime(root, images=images), root)
    yield kit
    for status in await kit.runtime.list({}):
        if status.phase is ContainerPhase.RUNNING:
            await kit.runtime.stop(status.name, grace=NO_GRACE)
