"""What the fault table's tests run on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.runtimes import Kind
from tests.e2e.faults.starts import StartsInFolder, starts_on_engine
from tests.e2e.faults.trial import Stage


@pytest.fixture
def stage(request: pytest.FixtureRequest, runtime: Kind, tmp_path: Path) -> Iterator[Stage]:
    """Give the run's platform on the test's runtime."""
    if runtime is Kind.PROCESS:
        yield Stage(request.getfixturevalue("platform"), None, StartsInFolder(tmp_path))
        return
    platform = request.getfixturevalue("docker_platform")
    engine = request.getfixturevalue("docker_engine")
    with starts_on_engine(engine) as starts:
        yield Stage(platform, engine, starts)
