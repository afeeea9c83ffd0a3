"""The Docker Engine's API: the calls that the runtime makes, each with a deadline and a breaker.

Owns: what the engine's answers mean as errors, and its stream of events. API 1.41 and later,
https://docs.docker.com/reference/api/engine/. Leaves to `runtime.py` what containers mean.

Always holds: an answer of the engine, also a refusal, is told apart from no answer at all; after
the latter nobody knows whether the call had its effect.
"""

import asyncio
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import IO, Any, Final

import aiohttp
from aiodocker import Docker, DockerError
from aiodocker.events import DockerEvents
from aiodocker.networks import DockerNetwork

from services.chassis.breaker import Breaker
from services.chassis.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)

NAME: Final = "container-engine"
_NO_ANSWER: Final = 900
"""aiodocker's own status for a connection that failed."""
_BREAKER_RESET: Final = timedelta(seconds=1)
_INFO_TIMEOUT: Final = timedelta(seconds=1.5)
"""Below the bound of whoever asks: what he gives up waiting for is not counted as unanswered."""
_UNANSWERED_MAX: Final = 3
"""However many were answered before: an engine answers at once, or is away."""
_UNANSWERED_WINDOW: Final = timedelta(seconds=10)

Json = Mapping[str, Any]


class EngineFailed(Unavailable):
    """The engine answered that it could not: the call had no effect; another try may have."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{NAME} ({message})")


class Engine:
    """One engine.

    Raises NotFound, FailedPrecondition and InvalidArgument as its refusals, EngineFailed as its
    failures, and Unavailable where there is no answer in time.
    """

    def __init__(self, docker: Docker, *, call_timeout: timedelta, work_timeout: timedelta) -> None:
        """Use an open client: short calls within `call_timeout`, real work in `work_timeout`."""
        self._docker = docker
        self._call_timeout = call_timeout
        self.work_timeout = work_timeout
        self._breaker = Breaker(
            NAME,
            failure_count_max=_UNANSWERED_MAX,
            window=_UNANSWERED_WINDOW,
            failure_share_min=0.0,
            reset_after=_BREAKER_RESET,
            # An answer does not count, whatever it says: many a one is some tenant's own doing.
            counts=lambda error: (
                isinstance(error, Unavailable) and not isinstance(error, EngineFailed)
            ),
        )

    async def info(self) -> Json:
        """Return what the engine tells of itself, soon or not at all."""
        async with self._calling(_INFO_TIMEOUT):
            return await self._docker.system.info()

    async def inspect(self, name: str) -> Json:
        """Return all about a container, by name or id."""
        async with self._calling(self._call_timeout):
            return await self._docker.containers.container(name).show()

    async def list(self, labels: Mapping[str, str]) -> Sequence[Json]:
        """Return an outline of the containers that bear these labels."""
        async with self._calling(self.work_timeout):
            found = await self._docker.containers.list(all=True, filters=_filters(labels))
            return [container._container for container in found]  # noqa: SLF001 its only way

    async def create(self, name: str, config: Json) -> str | None:
        """Create a container and return its id; None if its name is taken."""
        try:
            async with self._calling(self.work_timeout):
                return (await self._docker.containers.create(dict(config), name=name)).id
        except FailedPrecondition:
            return None

    async def start(self, container_id: str) -> None:
        """Start a container, **also one that has ended**: ask before."""
        async with self._calling(self.work_timeout):
            await self._docker.containers.container(container_id).start()

    async def kill(self, container_id: str, signal: str) -> None:
        """Signal a container's first process; FailedPrecondition if it does not run."""
        async with self._calling(self._call_timeout):
            await self._docker.containers.container(container_id).kill(signal=signal)

    async def delete(self, container_id: str) -> None:
        """Delete a container that does not run; FailedPrecondition if it does."""
        async with self._calling(self.work_timeout):
            await self._docker.containers.container(container_id).delete(v=True)

    async def last_lines(self, name: str, *, of_errors: bool, count: int) -> str:
        """Return the last lines of a container's standard error, or of its standard output."""
        async with self._calling(self._call_timeout):
            container = self._docker.containers.container(name)
            lines = await container.log(stdout=not of_errors, stderr=of_errors, tail=count)
            return "".join(lines)

    async def image(self, reference: str) -> Json:
        """Return all about an image that the engine holds."""
        async with self._calling(self._call_timeout):
            return await self._docker.images.inspect(reference)

    async def pull(self, reference: str, *, within: timedelta) -> None:
        """Fetch an image from its registry, whose silence is not the engine's."""
        async with self._answering(within):
            await self._docker.images.pull(reference)

    async def build_empty(self, reference: str) -> None:
        """Make an image without any file."""
        async with self._calling(self.work_timeout):
            await self._docker.images.build(
                fileobj=_tar_of("Dockerfile", b"FROM scratch\nLABEL modelyard.empty=true\n"),
                encoding="identity",
                tag=reference,
            )

    async def networks(self, labels: Mapping[str, str]) -> Sequence[Json]:
        """Return the networks that bear these labels."""
        async with self._calling(self._call_timeout):
            return await self._docker.networks.list(filters=_filters(labels))

    async def create_network(self, config: Json) -> str:
        """Create a network; return its id."""
        async with self._calling(self.work_timeout):
            return str((await self._docker.networks.create(dict(config))).id)

    async def delete_network(self, network_id: str) -> None:
        """Delete a network that nobody is connected to."""
        async with self._calling(self.work_timeout):
            network = DockerNetwork(self._docker, network_id)  # type: ignore[no-untyped-call] # its author left it so
            await network.delete()

    async def saw_start(self, container_id: str, *, until: datetime) -> bool:
        """Return whether a container was started before an instant, as far as `saw_end` goes."""
        return await self._saw("start", container_id, until=until)

    async def saw_end(self, container_id: str, *, until: datetime) -> bool:
        """Return whether the engine was there when a container ended, before an instant.

        It remembers its last 256 events, and none from before its own start.
        """
        return await self._saw("die", container_id, until=until)

    async def _saw(self, event: str, container_id: str, *, until: datetime) -> bool:
        filters = {"type": ["container"], "event": [event], "container": [container_id]}
        events = DockerEvents(self._docker)  # type: ignore[no-untyped-call] # as above
        found = events.subscribe(create_task=False)  # type: ignore[no-untyped-call] # as above
        async with self._calling(self._call_timeout):
            await events.run(
                since="0", until=f"{until.timestamp():.6f}", filters=json.dumps(filters)
            )
            return await found.get() is not None

    async def read_events(
        self, labels: Mapping[str, str], *, since_ns: int, on_event: Callable[[Json], None]
    ) -> str:
        """Tell what happens to containers, from an instant on; return why the connection ended.

        The engine repeats what it remembers since then; what was before its own start is lost.
        """
        parameters = {
            "filters": json.dumps({"type": ["container"], **_filters(labels)}),
            "since": f"{since_ns // 10**9}.{since_ns % 10**9:09}",
        }
        events = self._docker.events.subscribe(create_task=False)  # type: ignore[no-untyped-call] # its author left it so
        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(self._publish_events(parameters))
            while (event := await events.get()) is not None:
                on_event(event)
        return publishing.result()

    async def _publish_events(self, parameters: Mapping[str, Any]) -> str:
        """Let the client publish events; it publishes None at the end, however that comes."""
        try:
            await self._docker.events.run(**parameters)
        # ValueError: the engine was killed in the middle of a line.
        except (DockerError, aiohttp.ClientError, OSError, ValueError) as error:
            return str(error) or type(error).__name__
        return "the engine closed it"

    @asynccontextmanager
    async def _calling(self, within: timedelta) -> AsyncIterator[None]:
        with self._breaker.calling():
            async with self._answering(within):
                yield

    @asynccontextmanager
    async def _answering(self, within: timedelta) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(within.total_seconds()):
                yield
        except DockerError as error:
            raise _error_of(error) from error
        # ValueError, TypeError: what the client makes of an answer that was cut or is none.
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, TypeError) as error:
            raise Unavailable(NAME) from error


def _error_of(error: DockerError) -> Exception:
    match error.status:
        case 400:
            return InvalidArgument("container", error.message)
        case 403 | 409:
            return FailedPrecondition(error.message)
        case 404:
            return NotFound("container", error.message)
        case status if status >= _NO_ANSWER:
            return Unavailable(NAME)
    return EngineFailed(error.message)


def _filters(labels: Mapping[str, str]) -> dict[str, list[str]]:
    return {"label": [f"{name}={value}" for name, value in labels.items()]}


def _tar_of(name: str, content: bytes) -> IO[bytes]:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    data.seek(0)
    return data
