"""Fixtures of the fault table, and its place in the run's output."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.runtimes import Kind
from tests.e2e.faults import table
from tests.e2e.faults.starts import StartsInFolder, starts_on_engine
from tests.e2e.faults.table import Row
from tests.e2e.faults.trial import Stage

_ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture(scope="session")
def rows(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Row]]:
    """Collect the rows; they are printed and written at the end of the run."""
    collected: list[Row] = []
    pytestconfig.stash[_ROWS] = collected
    yield collected
    named = os.environ.get("MODELYARD_FAULT_TABLE")
    table.write(collected, Path(named or tmp_path_factory.getbasetemp() / "fault-table.json"))


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


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table."""
    if rows := config.stash.get(_ROWS, []):
        terminalreporter.section("faults")
        for line in table.rendered(sorted(rows, key=lambda row: (row.runtime, row.fault))):
            terminalreporter.line(line)
