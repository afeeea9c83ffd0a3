"""The processes that become containers' shims.

Owns: starting them, handing each one its folder, and taking in their ends. One is started ahead of
need: Python takes longer to start than all that a shim does until its program's first instruction.

Always holds: a shim is handed one folder, once; one that was handed none ends with this process,
by the end of its socket.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.scheduler.adapters.runtime_process import shim
from services.scheduler.adapters.runtime_process.processes import readable

SYSTEM_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_CONTROL: Final = 3
_MARK_ROOM: Final = "-" * shim.PATH_BYTES_MAX
"""The shim writes its folder here, once it has one: environments can't grow."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A shim that has no folder yet."""

    pid: int
    control: socket.socket


class Shims:
    """The shims that this process has started; `environment` is for each of them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", **environment}
        self._children: set[int] = set()
        self._ahead: _Waiting | None = None
        self._is_one_kept_ahead = False

    @contextlib.contextmanager
    def one_ahead(self) -> Iterator[None]:
        """Within the block, have one waiting for the next folder."""
        self._is_one_kept_ahead = True
        self._start_ahead()
        try:
            yield
        finally:
            self._is_one_kept_ahead = False
            if self._ahead is not None:
                self._ahead.control.close()
                self._ahead = None

    async def run(self, folder: Path) -> None:
        """Let one run the container in this folder; return when it has started it, or given up.

        Raises OSError if this machine has no room for a process.
        """
        shim_process = self._take()
        with shim_process.control as control:
            control.send(os.fsencode(folder))
            await readable(control.fileno())  # closed by the program's start, or by the shim's end
        self._start_ahead()

    def reap(self) -> None:
        """Take in the ends of own shims; those of an earlier runner are init's."""
        for pid in tuple(self._children):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    continue
            self._children.discard(pid)

    def _take(self) -> _Waiting:
        self.reap()
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return self._start()
        if ahead.pid not in self._children:  # somebody killed it
            ahead.control.close()
            return self._start()
        return ahead

    def _start_ahead(self) -> None:
        if self._is_one_kept_ahead and self._ahead is None:
            with contextlib.suppress(OSError):  # then the next one is started when it is needed
                self._ahead = self._start()

    def _start(self) -> _Waiting:
        # Packets: a folder is read whole or not at all.
        control, shim_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with shim_end:
                pid = os.posix_spawn(
                    sys.executable,
                    [sys.executable, "-S", "-E", shim.__file__, str(_CONTROL)],
                    {**self._environment, shim.CONTAINER_MARK: _MARK_ROOM},
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, shim_end.fileno(), _CONTROL),
                        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                    ],
                    setsigmask=(),
                )
        except OSError:
            control.close()
            raise
        self._children.add(pid)
        return _Waiting(pid, control)
