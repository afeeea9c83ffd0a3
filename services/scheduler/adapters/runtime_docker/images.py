"""The images that a node may run: here before they are asked for, and bounded.

Who could act late: whoever gives an image's name to another image after it was looked at. A
container is made of the id that was looked at.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from loguru import logger

from services.chassis.errors import (
    FailedPrecondition,
    InvalidArgument,
    ModelyardError,
    NotFound,
    Unavailable,
)
from services.scheduler.adapters.runtime_docker.engine import Engine, EngineFailed, Json

_FETCH_PAUSE_MIN: Final = timedelta(seconds=15)
_FETCH_PAUSE_MAX: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class NodeImages:
    """What jobs and servers may ask for, by name."""

    engine: Engine
    references: Mapping[str, str]
    """The engine's, by name; nothing else runs."""
    pull_timeout: timedelta

    async def fetch(self) -> None:
        """Have every image here before it is asked for; again while engine or registry are away."""
        missing, pause = list(dict.fromkeys(self.references.values())), _FETCH_PAUSE_MIN
        while missing := [each for each in missing if await self._may_come(each)]:
            await asyncio.sleep(pause.total_seconds())
            pause = min(2 * pause, _FETCH_PAUSE_MAX)

    async def _may_come(self, reference: str) -> bool:
        """Fetch an image; return whether it is worth trying again."""
        try:
            await self._fetched(reference)
        except ModelyardError as error:
            logger.warning("image not fetched", image=reference, error=error.message)
            return error.retryable
        return False

    def reference_of(self, name: str) -> str:
        """Return the engine's reference of an image; raises InvalidArgument if it is not known."""
        if name not in self.references:
            raise InvalidArgument("image", f"{name!r} is not known to this runtime")
        return self.references[name]

    async def bounded_id(self, reference: str) -> str:
        """Return an image's id, once it is here.

        Raises InvalidArgument if programs could write more than they may, FailedPrecondition if it
        can't be had.
        """
        image = await self._fetched(reference)
        if image["Config"].get("Volumes"):
            raise InvalidArgument("image", "declares a VOLUME, which nothing would bound")
        return str(image["Id"])

    async def _fetched(self, reference: str) -> Json:
        """Return all about an image, once it is here.

        Raises FailedPrecondition if there is none of this name, Unavailable if its registry can't
        be asked, which may pass.
        """
        try:
            return await self.engine.image(reference)
        except NotFound:
            pass
        try:
            await self.engine.pull(reference, within=self.pull_timeout)
            return await self.engine.image(reference)
        except NotFound as error:
            message = f"image {reference} is not on this node and can't be fetched: {error.message}"
            raise FailedPrecondition(message) from error
        except EngineFailed as error:
            raise Unavailable(f"image {reference}, or its registry,") from error
