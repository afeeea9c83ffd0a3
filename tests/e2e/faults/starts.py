"""How often each job's program was started, told by somebody else than the platform."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlencode

from tests.support.docker_engine import DockerEngine

PRELUDE: Final = """
import os, pathlib, time
if "STARTS" in os.environ:
    with (pathlib.Path(os.environ["STARTS"]) / os.environ["MODELYARD_JOB_ID"]).open("a") as starts:
        starts.write("started ")
"""
_SILENCE_S_MAX: Final = 0.5
_AGAIN_AFTER_S: Final = 0.1


class Starts(Protocol):
    """Counts starts from its making on."""

    def environment(self) -> Mapping[str, str]:
        """Return what programs that begin with `PRELUDE` have to be told."""
        ...

    def counts(self) -> Mapping[str, int]:
        """Return the starts so far, by job."""
        ...


@dataclass(frozen=True, slots=True)
class StartsInFolder:
    """Programs write their starts to a folder that they share with the test."""

    folder: Path

    def environment(self) -> Mapping[str, str]:
        """Name the folder."""
        return {"STARTS": str(self.folder)}

    def counts(self) -> Mapping[str, int]:
        """Count the words that each job has left."""
        return Counter({file.name: len(file.read_text().split()) for file in self.folder.iterdir()})


@dataclass(slots=True)
class StartsOnEngine:
    """The Docker engine tells of each start; containers share no folder with the test."""

    seen: set[tuple[str, int]] = field(default_factory=set)
    """The job and the instant of each start: after a lost connection some are told again."""
    last_ns: int = field(default_factory=time.time_ns)

    def environment(self) -> Mapping[str, str]:
        """Tell programs nothing."""
        return {}

    def counts(self) -> Mapping[str, int]:
        """Count what the engine has told."""
        return Counter(job_id for job_id, _ in self.seen)

    def hear(self, event: dict[str, Any]) -> None:
        """Take in one event."""
        self.last_ns = event["timeNano"]
        self.seen.add((event["Actor"]["Attributes"]["modelyard.owner"], self.last_ns))


@contextmanager
def starts_on_engine(engine: DockerEngine) -> Iterator[StartsOnEngine]:
    """Listen to the engine while the block runs, whatever becomes of the engine meanwhile."""
    starts, over = StartsOnEngine(), threading.Event()
    path = engine.url.removeprefix("unix://")

    def listen() -> None:
        while not over.is_set():
            try:
                _hear_all(path, starts)
            except TimeoutError:
                continue  # silent; listen on at once: an engine that is stopped forgets
            except (OSError, HTTPException):
                over.wait(_AGAIN_AFTER_S)  # away

    with ThreadPoolExecutor(max_workers=1) as pool:
        listening = pool.submit(listen)
        try:
            yield starts
        finally:
            over.set()
            listening.result()


def _hear_all(path: str, starts: StartsOnEngine) -> None:
    filters = {"type": ["container"], "event": ["start"], "label": ["modelyard.owner"]}
    seconds, nanoseconds = divmod(starts.last_ns, 1_000_000_000)
    query = {"filters": json.dumps(filters), "since": f"{seconds}.{nanoseconds:09}"}
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(_SILENCE_S_MAX)
        link.connect(path)
        connection = HTTPConnection("engine")
        connection.sock = link
        connection.request("GET", f"/events?{urlencode(query)}")
        with connection.getresponse() as events:
            for line in events:
                starts.hear(json.loads(line))
