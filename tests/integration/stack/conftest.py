"""Stacks in folders of their own, gone after the test."""

from collections.abc import Iterator

import pytest

from deploy.local import stack
from deploy.local.stack import Infrastructure
from deploy.local.state import State


@pytest.fixture
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    fresh = State(tmp_path_factory.mktemp("stack") / "state")
    yield fresh
    stack.clean(fresh)


@pytest.fixture(scope="module")
def running_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    fresh = State(tmp_path_factory.mktemp("stack") / "its state")
    yield fresh
    stack.clean(fresh)


@pytest.fixture(scope="module")
def infra(running_state: State) -> Infrastructure:
    return stack.infra_up(running_state)
