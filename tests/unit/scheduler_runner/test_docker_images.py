"""Images that an engine has, can have, or can't."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.scheduler.adapters.runtime_docker import images as images_module
from services.scheduler.adapters.runtime_docker.engine import Engine
from services.scheduler.adapters.runtime_docker.images import NodeImages


@dataclass
class PullingEngine:
    """Has these images; a pull does as it is told."""

    here: dict[str, dict[str, Any]] = field(default_factory=dict)
    pull_failure: Exception | None = None
    failures_left: int = -1
    """Less than 0: without end."""

    async def image(self, reference: str) -> dict[str, Any]:
        if reference not in self.here:
            raise NotFound("container", reference)
        return self.here[reference]

    async def pull(self, reference: str, *, within: timedelta) -> None:
        if self.pull_failure is not None and self.failures_left != 0:
            self.failures_left -= 1
            raise self.pull_failure
        self.here[reference] = {"Id": "sha256:1", "Config": {}}


def images(engine: PullingEngine) -> NodeImages:
    return NodeImages(cast("Engine", engine), {"base": "base:1"}, timedelta(seconds=1))


async def test_image_is_fetched_when_it_is_not_here() -> None:
    assert await images(PullingEngine()).bounded_id("base:1") == "sha256:1"


async def test_image_that_no_registry_has_can_not_be_had() -> None:
    engine = PullingEngine(pull_failure=NotFound("image", "no such manifest"))
    with pytest.raises(FailedPrecondition, match="can't be fetched"):
        await images(engine).bounded_id("base:1")


async def test_image_may_come_yet_while_its_registry_can_not_be_asked() -> None:
    engine = PullingEngine(pull_failure=Unavailable("registry"))
    with pytest.raises(Unavailable):
        await images(engine).bounded_id("base:1")


async def test_image_is_fetched_once_its_engine_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "_FETCH_PAUSE_MIN", timedelta(0))
    engine = PullingEngine(pull_failure=Unavailable("container-engine"), failures_left=3)

    await images(engine).fetch()

    assert "base:1" in engine.here


async def test_image_that_no_registry_has_is_asked_for_once() -> None:
    engine = PullingEngine(pull_failure=NotFound("image", "no such manifest"))

    await images(engine).fetch()

    assert engine.here == {}


async def test_image_that_nothing_bounds_is_refused() -> None:
    volume = {"Id": "sha256:1", "Config": {"Volumes": {"/data": {}}}}
    with pytest.raises(InvalidArgument):
        await images(PullingEngine(here={"base:1": volume})).bounded_id("base:1")
