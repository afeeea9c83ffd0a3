"""The floor under `start` on Docker: the engine alone, with the container that a job would get.

Owns: asking the engine for it in the leanest way: two calls on one kept connection. Leaves nothing
of it behind. What the container is, it copies from one of the platform's: whatever a job's program
is denied, this one is, too.
"""

import json
import socket
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from typing_extensions import override

_ANSWER_S_MAX: Final = 60.0
_FRAME_BYTES: Final = 8
"""Docker marks each piece of output with its stream and length."""


class Engine:
    """A connection to a Docker engine on a Unix socket; use it as a context manager."""

    def __init__(self, url: str) -> None:
        self._connection = _UnixConnection(url.removeprefix("unix://"))

    def __enter__(self) -> Self:
        """Return the engine."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._connection.close()

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """Ask the engine, which must agree."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, content, headers)
        answer = self._connection.getresponse()
        said = answer.read()
        assert answer.status < 400, f"{method} {path}: {answer.status} {said.decode()}"
        return said

    def container_of(self, job_id: str) -> Mapping[str, Any] | None:
        """Return all about the container of a running job, once there is one."""
        filters = quote(json.dumps({"label": [f"modelyard.owner={job_id}"]}))
        found = json.loads(self.call("GET", f"/containers/json?filters={filters}"))
        if not found:
            return None
        return dict(json.loads(self.call("GET", f"/containers/{found[0]['Id']}/json")))


class EngineFloor:
    """Starts a program in containers like a given one."""

    def __init__(
        self, engine: Engine, container: Mapping[str, Any], command: Sequence[str], folder: Path
    ) -> None:
        """Copy the description of a platform's container; `folder` takes what it mounts."""
        self._engine = engine
        host = dict(container["HostConfig"])
        host["Mounts"] = [_own_mount(mount, folder) for mount in host["Mounts"]]
        given = {name: value for name, value in container["Config"].items() if name != "Hostname"}
        self._config = given | {
            "Entrypoint": [command[0]],
            "Cmd": list(command[1:]),
            "Labels": {},  # it belongs to no stack, which would tidy it away
            "HostConfig": host,
        }

    def started_ms(self) -> float:
        """Return how long create and start take until the program has told the time."""
        sent_ns = time.time_ns()
        made = json.loads(self._engine.call("POST", "/containers/create", self._config))["Id"]
        try:
            self._engine.call("POST", f"/containers/{made}/start")
            self._engine.call("POST", f"/containers/{made}/wait")
            output = self._engine.call("GET", f"/containers/{made}/logs?stdout=true")
        finally:
            self._engine.call("DELETE", f"/containers/{made}?force=true&v=true")
        return (int(output[_FRAME_BYTES:]) - sent_ns) / 1e6


class _UnixConnection(HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=_ANSWER_S_MAX)
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ANSWER_S_MAX)
        self.sock.connect(self._path)


def _own_mount(mount: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Return the same mount of something of our own."""
    source = folder / Path(mount["Source"]).name
    if Path(mount["Source"]).is_dir():
        source.mkdir(parents=True)
    else:
        source.touch()
    return {**mount, "Source": str(source)}
