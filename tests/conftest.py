"""Fixtures and habits of all tests: real parts, marks and time limits by folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from tests.support.docker_engine import docker_engine, end_abandoned
from tests.support.fixtures import (
    database_url,
    kafka_broker,
    kafka_topic,
    postgres_server,
    redis_address,
    redis_url,
)
from tests.support.platform import docker_platform, platform
from tests.support.run_scope import close_run, is_worker, open_run

__all__ = [
    "database_url",
    "docker_engine",
    "docker_platform",
    "kafka_broker",
    "kafka_topic",
    "platform",
    "postgres_server",
    "redis_address",
    "redis_url",
]

_MARKED_FOLDERS: Final = ("integration", "contract", "simulation", "e2e")
_TIMEOUT_S: Final = {"integration": 300, "contract": 300, "simulation": 600, "e2e": 600}
"""The first user of a part waits for its start, on a machine that runs other tests too."""


def pytest_configure(config: pytest.Config) -> None:
    """Give the run a folder for its real parts; how long an example takes is nobody's failure."""
    settings.register_profile(
        "modelyard", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("modelyard")
    open_run()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing running, whatever became of the workers."""
    close_run()
    if not is_worker():
        end_abandoned()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the folder that they lie in, and by what they must not break for others."""
    root = Path(__file__).parent
    for item in items:
        level = item.path.relative_to(root).parts[0] if item.path.is_relative_to(root) else ""
        if level in _MARKED_FOLDERS:
            item.add_marker(level)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_TIMEOUT_S[level]))
        group = _group_of(item, level)
        if group is not None and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group))


def _group_of(item: pytest.Item, level: str) -> str | None:
    """Return what a test breaks or fills: its worker has that for itself, others run meanwhile.

    A parametrized fixture names its implementation, and asks for it only when it runs.
    """
    call = getattr(item, "callspec", None)
    parameters = () if call is None else call.params.values()
    fixtures: Sequence[str] = getattr(item, "fixturenames", ())
    if "docker_engine" in fixtures or any(each == "docker" for each in parameters):
        return "docker"
    return "platform" if level == "e2e" else None
