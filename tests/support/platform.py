"""The whole platform as processes, in a state folder of the run's own, for `tests/e2e`."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from deploy.local import services, stack
from deploy.local.jaeger import backend_of
from deploy.local.state import State
from tests.support.run_scope import run_state


@dataclass(frozen=True, slots=True)
class Platform:
    """A running platform as its operator knows it; `state` leads to processes and logs."""

    url: str
    api_key: str
    otlp_endpoint: str
    jaeger_url: str
    state: State


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """Start everything once a run; e2e tests don't run in parallel, so nobody shares it."""
    state = State(run_state().root / "platform")
    try:
        gateway = stack.up(state)
        traces = backend_of(state)
        yield Platform(
            url=f"http://{gateway}",
            api_key=services.credentials_file(state).read_text().strip(),
            otlp_endpoint=traces.otlp_endpoint,
            jaeger_url=traces.query_url,
            state=state,
        )
    finally:
        stack.clean(state)
