"""The whole platform, each on a runtime and in a state folder of the run's own, for `tests/e2e`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from deploy.local import services, stack
from deploy.local.jaeger import backend_of
from deploy.local.runtimes import Kind, Wish
from deploy.local.state import State
from tests.support.docker_engine import DockerEngine
from tests.support.run_scope import run_state


@dataclass(frozen=True, slots=True)
class Platform:
    """A running platform as its operator knows it; `state` leads to processes and logs."""

    url: str
    api_key: str
    otlp_endpoint: str
    jaeger_url: str
    state: State
    wish: Wish
    """What it was started with; for starting it again."""


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """Start everything once a run; all tests that use it run in one process, one by one."""
    with _started("platform", Wish(Kind.PROCESS)) as running:
        yield running


@pytest.fixture(scope="session")
def docker_platform(docker_engine: DockerEngine) -> Iterator[Platform]:
    """Start everything once a run with containers on the engine of this test process."""
    with _started("docker-platform", Wish(Kind.DOCKER, docker_engine.own.engine)) as running:
        yield running


@contextmanager
def _started(name: str, wish: Wish) -> Iterator[Platform]:
    with own_state(name) as state:
        yield brought_up(state, wish)


@contextmanager
def own_state(name: str) -> Iterator[State]:
    """Give a state folder of the run's own; whatever was started in it ends with the block."""
    state = State(run_state().root / name)
    try:
        yield state
    finally:
        stack.clean(state)


def brought_up(state: State, wish: Wish) -> Platform:
    """Start or adopt everything in a state folder."""
    gateway = stack.up(state, wish).gateway
    traces = backend_of(state)
    return Platform(
        url=f"http://{gateway}",
        api_key=services.credentials_file(state).read_text().strip(),
        otlp_endpoint=traces.otlp_endpoint,
        jaeger_url=traces.query_url,
        state=state,
        wish=wish,
    )
