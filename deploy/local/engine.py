"""A Docker engine as the local stack needs it: may it be used, its images, and what is left on it.

Owns: the few calls of the Engine API (1.41 and later) that are made before the scheduler runs and
after it has ended. Leaves to the scheduler's runtime what runs on the engine, to `own_engine` how
one is started, and to `images` what is built.

Always holds: an engine is used only if its containers' output can be read here, as files.
"""

import json
import os
import socket
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote, urlencode

from deploy.local.errors import StackError

API_VERSION_MIN: Final = (1, 41)

_UNIX: Final = "unix://"
_SYSTEM_SOCKETS: Final = (
    Path("/run/docker.sock"),
    Path("/var/run/docker.sock"),
    Path.home() / ".docker" / "run" / "docker.sock",
)
_PING_MAX_S: Final = 3.0
_CALL_MAX_S: Final = 60.0
_WORK_MAX_S: Final = 600.0
_BRIDGE_NAME: Final = "com.docker.network.bridge.name"
_OWN_NETWORKS: Final = frozenset({"bridge", "host", "none"})


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine that listens on a Unix socket, whether it runs or not; raises StackError."""

    url: str

    def answers(self) -> bool:
        """Return whether the engine runs and is not stuck."""
        try:
            with self._connected(_PING_MAX_S) as connection:
                connection.request("GET", "/_ping")
                return connection.getresponse().status == HTTPStatus.OK
        except (HTTPException, OSError):
            return False

    def root_dir(self) -> Path:
        """Return the engine's own folder, below which its containers' output lies."""
        return Path(self._ask("GET", "/info")["DockerRootDir"])

    def require_usable(self) -> None:
        """Raise a sentence that says why the platform can't run its containers here."""
        version = str(self._ask("GET", "/version")["ApiVersion"])
        if tuple(int(part) for part in version.split(".")) < API_VERSION_MIN:
            needed = ".".join(map(str, API_VERSION_MIN))
            raise StackError(f"The engine at {self.url} speaks API {version}; {needed} is needed.")
        output = self.root_dir() / "containers"
        if not os.access(output, os.R_OK | os.X_OK):
            raise StackError(f"The engine's output can't be read: {output} of {self.url}.")

    def image_labels(self, reference: str) -> Mapping[str, str] | None:
        """Return the labels of an image; None if the engine doesn't hold it."""
        found = self._ask("GET", f"/images/{reference}/json", is_found=False)
        return None if found is None else dict(found["Config"]["Labels"] or {})

    def pull(self, image: str, tag: str) -> None:
        """Fetch an image from its registry."""
        self._work("/images/create", {"fromImage": image, "tag": tag})

    def import_tar(self, file: Path, reference: str) -> None:
        """Make an image of one layer from a file system's tar."""
        image, _, tag = reference.partition(":")
        query = {"fromSrc": "-", "repo": image, "tag": tag}
        with file.open("rb") as content:
            self._work("/images/create", query, body=content)

    def build(
        self,
        context: Mapping[str, Path],
        references: Sequence[str],
        *,
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
    ) -> None:
        """Build an image without network from a context: path in it → file or folder here."""
        query = {
            "t": list(references),
            "buildargs": json.dumps(dict(arguments)),
            "labels": json.dumps(dict(labels)),
            "networkmode": "none",
            "forcerm": "true",
        }
        with tempfile.TemporaryFile() as packed:
            with tarfile.open(fileobj=packed, mode="w") as tar:
                for name, path in context.items():
                    tar.add(path, name, filter=_of_root)
            packed.seek(0)
            self._work("/build", query, body=packed)

    def remove_all(self, label: str | None = None) -> int:
        """Remove containers and networks that bear a label, or all; return how many containers."""
        filters = json.dumps({"label": [label]} if label else {})
        containers = self._ask("GET", f"/containers/json?all=true&filters={quote(filters)}")
        for container in containers:
            self._ask("DELETE", f"/containers/{container['Id']}?force=true&v=true", is_found=False)
        for network in self._ask("GET", f"/networks?filters={quote(filters)}"):
            if network["Name"] not in _OWN_NETWORKS:
                # Refused after a crash in the middle of a start (seen): the engine then counts an
                # endpoint of no container, until it starts the next time.
                with suppress(StackError):
                    self._ask("DELETE", f"/networks/{network['Id']}", is_found=False)
        return len(containers)

    def bridges(self) -> list[str]:
        """Return the interfaces of this machine that the engine's networks are."""
        networks = self._ask("GET", "/networks")
        return [
            network["Options"][_BRIDGE_NAME]
            for network in networks
            if _BRIDGE_NAME in (network["Options"] or {})
        ]

    def _ask(self, method: str, path: str, *, is_found: bool = True) -> Any:
        """Return the answer to a short call; None where nothing is found and nothing has to be."""
        with self._calling(_CALL_MAX_S) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            if answer.status == HTTPStatus.NOT_FOUND and not is_found:
                return None
            text = self._accepted(answer).read()
            return json.loads(text) if text else None

    def _work(
        self,
        path: str,
        query: Mapping[str, str | Sequence[str]],
        *,
        body: IO[bytes] | None = None,
    ) -> None:
        """Have the engine do what it tells about line by line; a failure is one of the lines."""
        with self._calling(_WORK_MAX_S) as connection:
            connection.request(
                "POST",
                f"{path}?{urlencode(query, doseq=True)}",
                body=body,
                headers={"Content-Type": "application/x-tar"} if body else {},
                encode_chunked=True,
            )
            for line in self._accepted(connection.getresponse()):
                if line.strip() and "error" in (told := json.loads(line)):
                    raise StackError(f"The engine at {self.url} failed: {told['error'].strip()}.")

    def _accepted(self, answer: HTTPResponse) -> HTTPResponse:
        if answer.status >= HTTPStatus.BAD_REQUEST:
            told = json.loads(answer.read())["message"]
            raise StackError(f"The engine at {self.url} refused: {told}.")
        return answer

    @contextmanager
    def _calling(self, within_s: float) -> Iterator[HTTPConnection]:
        try:
            with self._connected(within_s) as connection:
                yield connection
        except (HTTPException, OSError) as error:
            raise StackError(f"The engine at {self.url} does not answer ({error!r}).") from error

    @contextmanager
    def _connected(self, within_s: float) -> Iterator[HTTPConnection]:
        """Give a connection on which no single wait is longer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(within_s)
            link.connect(self.url.removeprefix(_UNIX))
            connection = HTTPConnection("engine")
            connection.sock = link
            yield connection


def running_engines() -> Iterator[Engine]:
    """Yield the engines of this machine that answer, the one that the environment names first."""
    named = os.environ.get("DOCKER_HOST")
    urls = [named] if named else [f"{_UNIX}{path}" for path in _SYSTEM_SOCKETS]
    for url in urls:
        if url.startswith(_UNIX) and (engine := Engine(url)).answers():
            yield engine


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
