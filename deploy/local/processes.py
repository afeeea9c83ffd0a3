"""Starting, adopting and stopping processes.

Owns: what makes a process "ours" (pid, start time, boot; or a mark in its environment), and how it
is ended. Leaves to the parts which programs there are. Linux only: it reads /proc and uses pidfds.

Always holds: a pidfd is opened before the start time is compared, so no signal reaches a process
that merely got a recorded number.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local.errors import StackError
from deploy.local.state import ProcessRecord, State
from deploy.local.waiting import wait_until

STACK_MARK: Final = "MODELYARD_LOCAL_STACK"
"""In the environment of every part that is not a service: whose stack it belongs to."""
STATE_MARK: Final = "MODELYARD_STATE_ROOT"
"""In the environment of every service, and of the tenants' work that it starts."""
CALLERS: Final = ("PATH", "HOME", "TMPDIR", "TZ", "JAVA_HOME")
"""What a part gets from the environment of whoever starts it, if it is there."""

_KILL_WAIT_MAX_S: Final = 5.0
_KILL_ROUNDS_MAX: Final = 10
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True, slots=True)
class Account:
    """The system account under which a part runs."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Program:
    """A process to be: what to run, where, and how it is asked to end."""

    part: str
    command: Sequence[str]
    address: str
    environment: Mapping[str, str]
    folder: Path
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 15.0


def running(state: State, part: str) -> ProcessRecord | None:
    """Return the record of a part that was started and still lives."""
    record = state.read().processes.get(part)
    return record if record is not None and is_alive(record) else None


def launch(state: State, program: Program) -> ProcessRecord:
    """Start a program in a session of its own and record it at once."""
    log = state.log_of(program.part)
    account = program.account
    with log.open("ab") as output:
        child = subprocess.Popen(
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=program.folder,
            env=dict(program.environment),
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=() if account else None,
        )
    _reap()
    _children[child.pid] = child
    record = ProcessRecord(
        pid=child.pid,
        started_ticks=_started_ticks(child.pid) or 0,
        boot_id=_boot_id(),
        address=program.address,
        log=str(log),
        stop_signal=int(program.stop_signal),
        stop_grace_s=program.stop_grace_s,
    )
    with state.changing() as stack:
        stack.processes.pop(program.part, None)  # a restarted part moves to the end of the order
        stack.processes[program.part] = record
    return record


def is_alive(record: ProcessRecord) -> bool:
    """Return whether the recorded process, and not a namesake, still runs."""
    return record.boot_id == _boot_id() and _started_ticks(record.pid) == record.started_ticks


def require_alive(record: ProcessRecord, *, part: str) -> None:
    """Raise with the end of its log if a part that should be starting has ended."""
    if not is_alive(record):
        raise StackError(f"{part} ended while starting; {record.log} ends with: {tail(record.log)}")


def tail(log: str, *, characters_max: int = 400) -> str:
    """Return the last words of a log, on one line."""
    text = Path(log).read_text(errors="replace") if Path(log).exists() else ""
    return " | ".join(text.strip().splitlines()[-4:])[-characters_max:] or "(nothing)"


def stop(state: State, part: str) -> bool:
    """End a recorded process: its own signal, a bounded wait, SIGKILL. Return whether it lived."""
    record = state.read().processes.get(part)
    if record is None:
        return False
    lived = _end(record, part=part)
    with state.changing() as stack:
        stack.processes.pop(part, None)
    return lived


def _end(record: ProcessRecord, *, part: str) -> bool:
    try:
        descriptor = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(record):
            return False
        signal.pidfd_send_signal(descriptor, signal.Signals(record.stop_signal))
        if not _ended(descriptor, within_s=record.stop_grace_s):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(record.pid, signal.SIGKILL)
            if not _ended(descriptor, within_s=_KILL_WAIT_MAX_S):
                raise StackError(f"{part} (pid {record.pid}) did not end after SIGKILL.")
    finally:
        os.close(descriptor)
        _reap()
    return True


def _ended(descriptor: int, *, within_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(within_s * 1000))


def _reap() -> None:
    """Forget the children that have ended, also those that somebody else killed."""
    for pid, child in list(_children.items()):  # parts are started side by side
        if child.poll() is not None:
            _children.pop(pid, None)


def end_marked(name: str, state: State, *, grace_s: float) -> int:
    """End every process whose environment says `name=<state folder>`, with groups and offspring.

    SIGTERM first; whatever is left after the grace period gets SIGKILL, in rounds, since a process
    may start another one while it is looked at. Returns how many were found.
    """
    mark = f"{name}={state.root}".encode()
    victims = _marked(mark)
    found = len(victims)
    if not victims:
        return 0
    _signal_groups(victims, signal.SIGTERM)
    with contextlib.suppress(StackError):
        wait_until(lambda: not _marked(mark), within_s=grace_s, otherwise="work did not end")
    for _ in range(_KILL_ROUNDS_MAX):
        victims = {pid for pid in victims if _started_ticks(pid) is not None} | _marked(mark)
        if not victims:
            return found
        _signal_groups(victims, signal.SIGKILL)
        with contextlib.suppress(StackError):
            wait_until(lambda: not _marked(mark), within_s=0.5, otherwise="work did not end")
    raise StackError(f"Processes {sorted(victims)} of {state.root} did not end after SIGKILL.")


def _marked(mark: bytes) -> set[int]:
    parents = {pid: _parent(pid) for pid in _pids()}
    own = {os.getpid()}
    ancestor: int | None = os.getppid()
    while ancestor:
        own.add(ancestor)
        ancestor = parents.get(ancestor)
    marked = {pid for pid in parents if pid not in own and _has_mark(pid, mark)}
    grew = True
    while grew:  # offspring with a cleaned environment belongs to the marked process above it
        offspring = {pid for pid, parent in parents.items() if parent in marked} - marked - own
        marked |= offspring
        grew = bool(offspring)
    return {pid for pid in marked if _started_ticks(pid) is not None}


def _signal_groups(pids: set[int], what: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            group = os.getpgid(pid)
            if group == os.getpgid(0):
                os.kill(pid, what)
            else:
                os.killpg(group, what)


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _has_mark(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()  # a process name may hold spaces and brackets


def _parent(pid: int) -> int | None:
    stat = _stat(pid)
    return int(stat[1]) if stat else None


def _started_ticks(pid: int) -> int | None:
    stat = _stat(pid)
    return int(stat[19]) if stat and stat[0] not in {"Z", "X"} else None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; empty when it can't be read."""
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (
        entry.decode(errors="replace").partition("=") for entry in content.split(b"\0") if entry
    )
    return {name: value for name, _, value in pairs}


def base_environment() -> dict[str, str]:
    """Return the little that every part gets from the caller's environment."""
    environment = {name: os.environ[name] for name in CALLERS if name in os.environ}
    return environment | {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


def stack_environment(state: State) -> dict[str, str]:
    """Return the environment of a part that is not a service."""
    return base_environment() | {STACK_MARK: str(state.root)}


def run_tool(
    command: Sequence[str],
    *,
    needed_for: str,
    within_s: float,
    account: Account | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run a helper program to its end and return what it printed; raise with its last words."""
    started_at = time.monotonic()
    try:
        result = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=within_s,
            check=False,
            env=dict(environment) if environment is not None else None,
            cwd=folder,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=() if account else None,
        )
    except subprocess.TimeoutExpired as error:
        spent = time.monotonic() - started_at
        raise StackError(f"{command[0]}, {needed_for}, took over {spent:.0f} s.") from error
    except OSError as error:
        raise StackError(f"{command[0]}, {needed_for}, can't be run: {error}.") from error
    output = result.stdout.decode(errors="replace")
    if result.returncode != 0:
        last = " | ".join(output.strip().splitlines()[-4:])[-600:]
        raise StackError(f"{command[0]}, {needed_for}, failed ({result.returncode}): {last}")
    return output
