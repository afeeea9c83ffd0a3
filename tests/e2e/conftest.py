"""Fixtures: what to do with the run's platform, and a bench for each test's jobs.

A test that fails tells what services and broker warned of: elsewhere nobody can see their logs.
"""

import re
from collections import deque
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import pytest
from modelyard.client import Client

from deploy.local import kafka
from tests.e2e.bench import Bench
from tests.e2e.platform import SERVICES, Platform
from tests.support.platform import Platform as RunningPlatform

_WARNING: Final = re.compile(r"\b(WARN|WARNING|ERROR|FATAL|CRITICAL)\b")
_WARNINGS_MAX: Final = 15
_CHARACTERS_MAX: Final = 600


_PLATFORMS: Final = pytest.StashKey[dict[str, Platform]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the last warnings of each part to the report of a failure."""
    report = yield
    if report.failed:
        for name, platform in item.config.stash.get(_PLATFORMS, {}).items():
            for part in (*SERVICES, kafka.PART):
                warnings = "\n".join(_warnings(platform, part))
                report.sections.append((f"{name}: last warnings of {part}", warnings))
    return report


def _warnings(platform: Platform, part: str) -> Iterator[str]:
    record = platform.state.read().processes.get(part)
    if record is None or not Path(record.log).is_file():
        yield "it has been stopped"
        return
    with Path(record.log).open(errors="replace") as lines:
        found = deque((line for line in lines if _WARNING.search(line)), maxlen=_WARNINGS_MAX)
    for line in found:
        yield line.rstrip()[:_CHARACTERS_MAX]


@pytest.fixture(scope="session")
def platform(pytestconfig: pytest.Config, platform: RunningPlatform) -> Platform:
    """Give the run's platform with what its users and its operator do."""
    return _noted(pytestconfig, "platform", platform)


@pytest.fixture(scope="session")
def docker_platform(pytestconfig: pytest.Config, docker_platform: RunningPlatform) -> Platform:
    """Give the run's platform with containers on a Docker engine."""
    return _noted(pytestconfig, "docker_platform", docker_platform)


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
