"""What the engine's answers, and none at all, mean for the calls that follow."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import pytest
from aiodocker import Docker, DockerError
from aiodocker.system import DockerSystem

from services.chassis.errors import NotFound, Unavailable
from services.scheduler.adapters.runtime_docker.engine import Engine, EngineFailed

MANY = 10
NO_ANSWER = 900


@dataclass
class FakeDocker:
    """Notes what is asked of an engine, and answers each call with one status."""

    status: int
    calls: list[str] = field(default_factory=list)

    @property
    def system(self) -> DockerSystem:
        return DockerSystem(cast("Docker", self))

    async def _query_json(self, path: str, method: str = "GET", **_: Any) -> None:
        self._answer(f"{method} {path}")

    def _query(self, path: str, method: str = "GET", **_: Any) -> "FakeDocker":
        self._answer(f"{method} {path}")
        return self

    async def __aenter__(self) -> "FakeDocker":
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    def _answer(self, call: str) -> None:
        self.calls.append(call)
        if self.status >= 400:
            raise DockerError(self.status, "why")


def engine_of(docker: FakeDocker) -> Engine:
    timeout = timedelta(seconds=1)
    return Engine(cast("Docker", docker), call_timeout=timeout, work_timeout=timeout)


@pytest.mark.parametrize(("status", "error"), [(500, EngineFailed), (404, NotFound)])
async def test_engine_is_asked_on_however_often_it_answers_that_it_could_not(
    status: int, error: type[Exception]
) -> None:
    docker = FakeDocker(status)
    engine = engine_of(docker)

    for _ in range(MANY):
        with pytest.raises(error):
            await engine.info()

    assert len(docker.calls) == MANY


async def test_engine_is_left_alone_when_it_does_not_answer() -> None:
    docker = FakeDocker(NO_ANSWER)
    engine = engine_of(docker)

    for _ in range(MANY):
        with pytest.raises(Unavailable):
            await engine.info()

    assert len(docker.calls) < MANY


async def test_network_is_deleted_by_one_call() -> None:
    docker = FakeDocker(204)

    await engine_of(docker).delete_network("net_1")

    assert docker.calls == ["DELETE networks/net_1"]
