"""Processes by identity, also those that are nobody's child any more.

Owns: what tells a process from its number's next bearer, waiting for its end without polling, and
finding what a container has left behind. Linux: pidfds and /proc.

Always holds: a pidfd is opened before the process is looked at, so no signal reaches another one.
"""

import asyncio
import contextlib
import os
import select
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.chassis.errors import Unavailable
from services.scheduler.adapters.runtime_process import shim

_STAT_STATE: Final = 0
_STAT_SESSION: Final = 3
_ENDED: Final = frozenset({"Z", "X"})
_SWEEP_ROUNDS_MAX: Final = 20
_SWEEP_WAIT_MS: Final = 500


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, and no other one that had or will have its number."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ProcessIdentity":
        """Return what `shim.identity` recorded."""
        return cls(pid=data["pid"], start_ticks=data["start_ticks"], boot_id=data["boot_id"])

    def is_there(self) -> bool:
        """Return whether its number is still its own; it may have ended."""
        current = shim.identity(self.pid)
        return current is not None and ProcessIdentity.from_json(current) == self

    def is_alive(self) -> bool:
        """Return whether it runs."""
        fields = shim.stat_fields(self.pid)
        return fields is not None and fields[_STAT_STATE] not in _ENDED and self.is_there()


@contextlib.contextmanager
def opened(process: ProcessIdentity) -> Iterator[int | None]:
    """Give a pidfd of exactly this process while it lives, else None."""
    with _pidfd(process.pid) as descriptor:
        yield descriptor if descriptor is not None and process.is_alive() else None


async def readable(descriptor: int) -> None:
    """Wait until a pipe has data or no writer, or a pidfd's process has ended."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, wake)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def send(signal_number: int, descriptor: int) -> None:
    """Signal the process behind a pidfd, which may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, signal_number)


def kill_strays(folder: Path, program: ProcessIdentity | None) -> None:
    """Kill what is left of a container whose shim is gone; return when nothing is.

    That is the program's session and whatever bears the container's mark; a process that left both
    behind can't be found. Raises Unavailable if they don't end.
    """
    mark = f"{shim.CONTAINER_MARK}={folder}".encode()
    for _ in range(_SWEEP_ROUNDS_MAX):
        with contextlib.ExitStack() as stack:
            strays = []
            for pid in _pids():
                with contextlib.ExitStack() as looked_at:
                    descriptor = looked_at.enter_context(_pidfd(pid))
                    if descriptor is not None and _is_stray(pid, program, mark):
                        send(signal.SIGKILL, descriptor)
                        strays.append(descriptor)
                        stack.push(looked_at.pop_all())  # the others are closed: there are many
            if not strays:
                return
            _wait_ended(strays)
    raise Unavailable(f"the end of container {folder.name}")


def _wait_ended(descriptors: list[int]) -> None:
    """Wait for the ends behind these pidfds, each for a bounded time."""
    for descriptor in descriptors:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(_SWEEP_WAIT_MS)


def _is_stray(pid: int, program: ProcessIdentity | None, mark: bytes) -> bool:
    fields = shim.stat_fields(pid)
    if fields is None or fields[_STAT_STATE] in _ENDED:
        return False
    if program is not None and int(fields[_STAT_SESSION]) == program.pid and _owns_session(program):
        return True
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return mark in environment.split(b"\x00")


def _owns_session(program: ProcessIdentity) -> bool:
    """Whether a session of the program's number is its own: the number is kept while one lives."""
    if program.boot_id != shim.boot_id():
        return False
    return program.is_there() or shim.identity(program.pid) is None


def _pids() -> Sequence[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int | None]:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
