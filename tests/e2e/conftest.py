"""Fixtures: what to do with the run's platform, and a bench for each test's jobs.

A test that fails tells what services and broker warned of: elsewhere nobody can see their logs.
"""

import os
import re
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest
from modelyard.client import Client

from deploy.local import kafka
from deploy.local.runtimes import Kind, Wish
from tests.e2e.authorization import things
from tests.e2e.bench import Bench
from tests.e2e.crash import table as crash_table
from tests.e2e.faults import table
from tests.e2e.history import table as history_table
from tests.e2e.platform import SERVICES, Platform
from tests.support.platform import Platform as RunningPlatform
from tests.support.platform import brought_up, own_state

_WARNING: Final = re.compile(r"\b(WARN|WARNING|ERROR|FATAL|CRITICAL)\b")
_WARNINGS_MAX: Final = 8
_CHARACTERS_MAX: Final = 300
"""A whole report should fit where only some pages of one are kept."""


_PLATFORMS: Final = pytest.StashKey[dict[str, Platform]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the last warnings of each part of the test's platform to the report of a failure."""
    report = yield
    if report.failed:
        used = [getattr(value, "platform", value) for value in _fixtures_of(item)]
        for name, platform in item.config.stash.get(_PLATFORMS, {}).items():
            if platform not in used:
                continue
            for part in (*SERVICES, kafka.PART):
                warnings = "\n".join(_warnings(platform, part))
                report.sections.append((f"{name}: last warnings of {part}", warnings))
    return report


def _fixtures_of(item: pytest.Item) -> Iterable[object]:
    return item.funcargs.values() if isinstance(item, pytest.Function) else ()


def _warnings(platform: Platform, part: str) -> Iterator[str]:
    record = platform.state.read().processes.get(part)
    if record is None or not Path(record.log).is_file():
        yield "it has been stopped"
        return
    with Path(record.log).open(errors="replace") as lines:
        found = deque((line for line in lines if _WARNING.search(line)), maxlen=_WARNINGS_MAX)
    for line in found:
        yield line.rstrip()[:_CHARACTERS_MAX]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables, and write them where that is wanted."""
    for found in _noted_as(things.PROPERTY, terminalreporter):
        terminalreporter.section("authorization")
        terminalreporter.line(found)
    for found in _noted_as(history_table.PROPERTY, terminalreporter):
        terminalreporter.section("history")
        for line in history_table.rendered(history_table.heard(found)):
            terminalreporter.line(line)
    for found in _noted_as(crash_table.PROPERTY, terminalreporter):
        matrix = crash_table.heard(found)
        terminalreporter.section("crashes")
        for line in crash_table.rendered(matrix):
            terminalreporter.line(line)
        if named := os.environ.get("MODELYARD_CRASH_TABLE"):
            crash_table.write(matrix, Path(named))
    rows = [table.heard(found) for found in _noted_as(table.PROPERTY, terminalreporter)]
    if not rows:
        return
    rows.sort(key=lambda row: (row.runtime, row.fault))
    terminalreporter.section("faults")
    for line in table.rendered(rows):
        terminalreporter.line(line)
    if named := os.environ.get("MODELYARD_FAULT_TABLE"):
        table.write(rows, Path(named))


def _noted_as(wanted: str, terminalreporter: pytest.TerminalReporter) -> Iterator[str]:
    """Yield what tests have recorded under a name, in whatever process they ran."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and report.when == "call":
                yield from (str(value) for name, value in report.user_properties if name == wanted)


@pytest.fixture(scope="session")
def platform(pytestconfig: pytest.Config, platform: RunningPlatform) -> Platform:
    """Give the run's platform with what its users and its operator do."""
    return _noted(pytestconfig, "platform", platform)


@pytest.fixture(scope="session")
def docker_platform(pytestconfig: pytest.Config, docker_platform: RunningPlatform) -> Platform:
    """Give the run's platform with containers on a Docker engine."""
    return _noted(pytestconfig, "docker_platform", docker_platform)


@pytest.fixture(scope="module")
def own_wish() -> Wish:
    """Say how a platform of a module's own is started; a folder may say otherwise.

    Tenants' jobs need not wait for each other there.
    """
    return Wish(Kind.PROCESS, settings={"scheduler": {"RUNTIME__ALLOW_MIXED_TENANTS": "true"}})


@pytest.fixture(scope="module")
def own_platform(pytestconfig: pytest.Config, own_wish: Wish) -> Iterator[Platform]:
    """Give a module's tests a platform of their own, which they may leave as they like."""
    with own_state("own") as state:
        yield _noted(pytestconfig, "own_platform", brought_up(state, own_wish))


def _noted(config: pytest.Config, name: str, running: RunningPlatform) -> Platform:
    platform = Platform(running)
    config.stash.setdefault(_PLATFORMS, {})[name] = platform
    return platform


@pytest.fixture
def client(platform: Platform) -> Iterator[Client]:
    """Give a client that is patient enough for a service that is started again."""
    with platform.client(tries_max=30) as client:
        yield client


@pytest.fixture
def bench(client: Client, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(client, tmp_path)
    yield bench
    bench.clear()
