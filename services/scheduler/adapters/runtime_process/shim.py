"""The process that stands between the runner and one container's program.

A program of its own, `python -S -E shim.py CONTROL_FD`, of the standard library only. It waits for
a folder on that socket, and outlives the runner from then on: it starts the program once, writes
its output down in Docker's json-file format, enforces the limits, kills what the program leaves
behind, and records how it ended.

Leaves to the runtime: laying out the folder with `config.json`, and reading what is written here.
`claim.json` (who may run it), `started.json`, `stop.json` (by the runtime, then SIGUSR1; an instant
of the machine's monotonic clock) and `exit.json` are the whole protocol.

The process that is to become the program is forked ahead, while there is time: a fork takes longer
than all that is left to do once the folder comes.

Always holds: the program runs at most once, since the claim is an exclusive link that is on disk
before it is let go; `exit.json` appears only when no process of the container is left. The memory
limit is soft: the resident memory of the tree is sampled.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from json.encoder import encode_basestring
from typing import Any, Final, NoReturn

CLAIM: Final = "claim.json"
CONFIG: Final = "config.json"
STARTED: Final = "started.json"
STOP: Final = "stop.json"
EXIT: Final = "exit.json"
LOG: Final = "container.log"
SHIM_LOG: Final = "shim.log"
WORK: Final = "work"

CONTAINER_MARK: Final = "MODELYARD_CONTAINER"
"""In the environment of every process of a container: its folder, which no other container of this
machine has. So strays are found without their shim."""

PIECE_BYTES_MAX: Final = 16 * 1024
"""Docker cuts a longer line into records of this size; only the last one ends in a newline."""
PATH_BYTES_MAX: Final = 4096
READ_BYTES_MAX: Final = 64 * 1024
DRAIN_BYTES_MAX: Final = 64 * 1024 * 1024
LOG_FILE_BYTES_MAX: Final = 16 * 1024 * 1024
LOG_FILES_MAX: Final = 4
OPEN_FILES_MAX: Final = 1024
MEMORY_SAMPLE_S: Final = 0.25

EXIT_CANNOT_RUN: Final = 126
EXIT_NOT_FOUND: Final = 127

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_STAT_PARENT: Final = 1  # fields of /proc/<pid>/stat after the command's closing parenthesis
_STAT_START_TICKS: Final = 19


def identity(pid: int) -> dict[str, Any] | None:
    """Return what tells this process from any other that had or will have its number."""
    fields = stat_fields(pid)
    if fields is None:
        return None
    return {"pid": pid, "start_ticks": int(fields[_STAT_START_TICKS]), "boot_id": boot_id()}


def stat_fields(pid: int) -> list[str] | None:
    """Return /proc/<pid>/stat after the command, which may itself hold spaces and parentheses."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def boot_id() -> str:
    """Return this boot's id: process numbers and start ticks mean nothing in another one."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def take_claim(claim: dict[str, Any], *, folder: str = ".", sync: bool = True) -> bool:
    """Decide once and for all what this container is; False if that was decided before.

    A hard link is exclusive and appears with its whole content. Without `sync` a loss of power may
    leave the name alone, which says that it was claimed by a shim.
    """
    own = _write_aside(f"{folder}/{CLAIM}", claim, sync=sync)
    try:
        os.link(own, f"{folder}/{CLAIM}")
    except FileExistsError:
        return False
    finally:
        os.unlink(own)
    _sync_folder(folder)
    return True


def record(name: str, content: dict[str, Any], *, sync: bool = True) -> None:
    """Write a record so that it is whole, and on disk if asked, once its name is there."""
    os.rename(_write_aside(name, content, sync=sync), name)
    if sync:
        _sync_folder(os.path.dirname(name) or ".")


def _write_aside(path: str, content: dict[str, Any], *, sync: bool) -> str:
    aside = f"{path}.{os.getpid()}.{time.monotonic_ns()}"
    with open(aside, "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    return aside


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stamp() -> str:
    """Return the wall clock as RFC 3339 with nanoseconds, UTC."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


class JsonFileLog:
    """Docker's json-file: one object a line, rotated by renaming (`.1` is the newest old one).

    A full disk loses output, never blocks the program: the file stays valid, and a record says how
    much is missing once there is room again.
    """

    def __init__(self, path: str, *, file_bytes_max: int, files_max: int) -> None:
        self._path = path
        self._file_bytes_max = file_bytes_max
        self._files_max = files_max
        self._lost_bytes = 0
        self._open()

    def write(self, records: str) -> None:
        """Append whole records."""
        if self._lost_bytes:
            note = f"modelyard: {self._lost_bytes} bytes of output are missing here\n"
            records = log_record(note, "stderr", stamp()) + records
        content = records.encode()
        try:
            if self._size >= self._file_bytes_max:
                self._rotate()
            written = 0
            while written < len(content):
                written += os.write(self._descriptor, content[written:])
        except OSError:
            self._lost_bytes += len(content)
            os.ftruncate(self._descriptor, self._size)
        else:
            self._lost_bytes = 0
            self._size += len(content)

    def close(self) -> None:
        """Put it on disk: what is recorded as ended has its whole output there."""
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
        os.close(self._descriptor)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o644)
        self._size = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        names = [self._path, *(f"{self._path}.{age}" for age in range(1, self._files_max))]
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            with contextlib.suppress(FileNotFoundError):
                os.rename(newer, older)
        full = self._descriptor
        self._open()
        os.close(full)


def log_record(text: str, stream: str, at: str) -> str:
    """Return one line of a json-file."""
    return f'{{"log":{encode_basestring(text)},"stream":"{stream}","time":"{at}"}}\n'


class Output:
    """One of the program's two output streams, cut into lines, and long lines into pieces.

    All pieces of a line bear the time of its first one. Unlike Docker's, a piece never ends inside
    a character.
    """

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._pending = b""
        self._line_began_at: str | None = None

    def feed(self, data: bytes, at: str) -> str:
        """Return the records that this data completes; an unfinished short line waits."""
        *lines, rest = (self._pending + data).split(b"\n")
        records: list[str] = []
        for line in lines:
            tail = self._cut(line, at, records)
            self._add(tail + b"\n", at, records)
            self._line_began_at = None
        self._pending = self._cut(rest, at, records)
        return "".join(records)

    def end(self, at: str) -> str:
        """Return what is left of a last line without a newline."""
        records: list[str] = []
        if self._pending:
            self._add(self._pending, at, records)
            self._pending = b""
        return "".join(records)

    def _cut(self, line: bytes, at: str, records: list[str]) -> bytes:
        begin = 0
        while len(line) - begin >= PIECE_BYTES_MAX:
            end = _character_boundary(line, begin + PIECE_BYTES_MAX)
            self._line_began_at = self._line_began_at or at
            self._add(line[begin:end], at, records)
            begin = end
        return line[begin:]

    def _add(self, piece: bytes, at: str, records: list[str]) -> None:
        text = piece.decode("utf-8", "replace")
        records.append(log_record(text, self._stream, self._line_began_at or at))


def _character_boundary(data: bytes, end: int) -> int:
    """Return `end`, or where the character begins that it would cut, at most three bytes before."""
    for place in range(end - 1, end - 4, -1):
        byte = data[place]
        if byte & 0xC0 != 0x80:
            length = 1 if byte < 0xC0 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return end if place + length <= end else place
    return end


def descendants(pid: int) -> list[int]:
    """Return all processes below this one; since it is their subreaper, none escapes."""
    found: list[int] = []
    unvisited = [pid]
    while unvisited:
        parent = unvisited.pop()
        try:
            tasks = os.listdir(f"/proc/{parent}/task")
        except (FileNotFoundError, ProcessLookupError):
            continue
        for task in tasks:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                with open(f"/proc/{parent}/task/{task}/children", encoding="ascii") as children:
                    below = [int(child) for child in children.read().split()]
                found += below
                unvisited += below
    return found


def resident_bytes(pids: list[int]) -> int:
    """Return the sum of their resident memory; pages that they share count for each."""
    total = 0
    for pid in pids:
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError),
            open(f"/proc/{pid}/statm", encoding="ascii") as statm,
        ):
            total += int(statm.read().split()[1]) * _PAGE_BYTES
    return total


def send(signal_number: int, pids: list[int]) -> None:
    """Signal processes, some of which may be gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)


class Waiting:
    """The process that becomes the program once it is told whose; the end of the shim ends it."""

    def __init__(self, control: int) -> None:
        go, self._go = os.pipe()
        streams = {name: os.pipe() for name in ("stdout", "stderr")}
        shim = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(control)
            os.close(self._go)
            _become_program(shim, go, streams["stdout"][1], streams["stderr"][1])
        os.close(go)
        for _, write in streams.values():
            os.close(write)
        self.outputs = {read: name for name, (read, _) in streams.items()}
        """What it writes: descriptor → stream."""
        self.identity = identity(self.pid)

    def let_go(self) -> None:
        """Let it run what the folder that this process is in describes."""
        with contextlib.suppress(BrokenPipeError):  # it was killed, and its end tells so
            os.write(self._go, os.getcwdb())
        os.close(self._go)


class Supervisor:
    """Runs one program from its start to its exit record."""

    def __init__(self, config: dict[str, Any], program: Waiting, wake: int) -> None:
        self._config = config
        self._program = program
        self._wake = wake
        self._log = JsonFileLog(
            LOG,
            file_bytes_max=config.get("log_file_bytes_max", LOG_FILE_BYTES_MAX),
            files_max=config.get("log_files_max", LOG_FILES_MAX),
        )
        self._outputs = {read: Output(name) for read, name in program.outputs.items()}
        self._poll = select.poll()
        for descriptor in (wake, *self._outputs):
            self._poll.register(descriptor, select.POLLIN)
        self._child_status: int | None = None
        self._started_at = ""
        self._cause: str | None = None
        self._kill_at: float | None = None
        self._time_limit_at: float | None = None
        self._memory_bytes_max: int | None = config.get("memory_bytes")
        self._sample_at = 0.0
        self._memory_bytes_peak = 0
        self._cpu_s = 0.0

    def start(self) -> None:
        """Record the program before its first instruction, and let it go."""
        for descriptor in self._outputs:
            os.set_blocking(descriptor, False)
        self._started_at = stamp()
        # Not waited for until it is on disk: it tells a program that runs without its shim. After a
        # loss of power none does, and the claim, which is there, says that it was started.
        started = {"child": self._program.identity, "started_at": self._started_at}
        record(STARTED, started, sync=False)
        if (limit := self._config.get("run_time_max_s")) is not None:
            self._time_limit_at = time.monotonic() + limit
        self._program.let_go()
        if os.path.exists(STOP):  # asked for before there was anybody to be woken
            self._take_stop_request()

    def watch(self) -> None:
        """Carry output and enforce limits until the program itself has ended."""
        while self._child_status is None:
            for descriptor, _ in self._poll.poll(self._wait_ms()):
                if descriptor == self._wake:
                    self._take_signals()
                else:
                    self._carry(descriptor)
            self._enforce_limits()

    def finish(self) -> None:
        """Kill what is left, write down the last output, then the exit record."""
        self._end_leftovers()
        for descriptor in list(self._outputs):
            carried = 0
            while carried < DRAIN_BYTES_MAX and (count := self._carry(descriptor)):
                carried += count
            self._end_output(descriptor)
        self._log.close()
        assert self._child_status is not None
        code = os.waitstatus_to_exitcode(self._child_status)
        record(
            EXIT,
            {
                "code": code if code >= 0 else 128 - code,
                "signal": -code if code < 0 else None,
                "cause": self._cause,
                "started_at": self._started_at,
                "ended_at": stamp(),
                "memory_bytes_peak": self._memory_bytes_peak,
                "cpu_s": round(self._cpu_s, 6),
            },
        )

    def _wait_ms(self) -> int | None:
        instants = [self._kill_at, self._time_limit_at if self._kill_at is None else None]
        if self._memory_bytes_max is not None:
            instants.append(self._sample_at)
        due = [instant for instant in instants if instant is not None]
        return max(0, int((min(due) - time.monotonic()) * 1000) + 1) if due else None

    def _carry(self, descriptor: int) -> int:
        if descriptor not in self._outputs:
            return 0
        try:
            data = os.read(descriptor, READ_BYTES_MAX)
        except BlockingIOError:
            return 0
        if not data:
            self._end_output(descriptor)
            return 0
        if records := self._outputs[descriptor].feed(data, stamp()):
            self._log.write(records)
        return len(data)

    def _end_output(self, descriptor: int) -> None:
        output = self._outputs.pop(descriptor, None)
        if output is None:
            return
        if records := output.end(stamp()):
            self._log.write(records)
        self._poll.unregister(descriptor)
        os.close(descriptor)

    def _take_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if signal.SIGUSR1 in os.read(self._wake, READ_BYTES_MAX):
                self._take_stop_request()
        self._reap(os.WNOHANG)

    def _take_stop_request(self) -> None:
        with open(STOP, encoding="utf-8") as file:
            self._end("stop", kill_at=float(json.load(file)["kill_at"]))

    def _reap(self, options: int) -> bool:
        """Take in the ends of children, own and inherited; False when there is none left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, options)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._cpu_s += usage.ru_utime + usage.ru_stime
            if pid == self._program.pid:
                self._child_status = status
                self._memory_bytes_peak = max(self._memory_bytes_peak, usage.ru_maxrss * 1024)
            if options == 0:
                return True

    def _enforce_limits(self) -> None:
        now = time.monotonic()
        if self._memory_bytes_max is not None and now >= self._sample_at:
            self._sample_at = now + MEMORY_SAMPLE_S
            used = resident_bytes(descendants(os.getpid()))
            self._memory_bytes_peak = max(self._memory_bytes_peak, used)
            if used > self._memory_bytes_max:
                self._end("memory_limit", kill_at=now)
        if self._time_limit_at is not None and now >= self._time_limit_at:
            self._time_limit_at = None
            self._end("time_limit", kill_at=now + self._config["stop_grace_s"])
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = now + 1.0  # again, should one have been started meanwhile
            send(signal.SIGKILL, descendants(os.getpid()))

    def _end(self, cause: str, *, kill_at: float) -> None:
        """Begin the end, or hasten it; the first cause is the one that is told."""
        self._cause = self._cause or cause
        if self._kill_at is None and kill_at > time.monotonic():
            send(signal.SIGTERM, descendants(os.getpid()))
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)

    def _end_leftovers(self) -> None:
        """Daemons of the program were given to us as their subreaper when their parents ended."""
        while True:
            send(signal.SIGKILL, descendants(os.getpid()))
            if not self._reap(0):
                return


def _become_program(shim: int, go: int, stdout: int, stderr: int) -> NoReturn:
    """Turn this forked child into the program, once the shim has recorded it."""
    command = [""]
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # without its shim it would be nobody's
        if os.getppid() != shim:  # which ended before that
            os._exit(EXIT_CANNOT_RUN)
        for number in (*_IGNORED, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(OPEN_FILES_MAX, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        os.umask(0o022)
        if folder := os.read(go, PATH_BYTES_MAX):
            os.chdir(folder)
            with open(CONFIG, encoding="utf-8") as file:
                config = json.load(file)
            os.chdir(WORK)
            command = config["command"]
            os.execvpe(command[0], command, config["environment"])  # noqa: S606 (no shell meant)
    except OSError as error:
        reason = f"modelyard: cannot run {command[0]!r}: {error.strerror}\n"
        os.write(2, reason.encode())
        os._exit(EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_CANNOT_RUN)
    finally:
        os._exit(EXIT_CANNOT_RUN)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


_IGNORED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def _catch_signals() -> int:
    """Ignore what is meant for the runner; return the pipe end that tells of the other signals."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, lambda _number, _frame: None)
    return read


def _close_inherited(*, keep: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        if (descriptor := int(name)) > 2 and descriptor != keep:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _open_log() -> None:
    """Let what this shim itself has to say, a traceback, go to its folder."""
    log = os.open(SHIM_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 2)
    os.close(log)


def _show_mark(folder: bytes) -> None:
    """Name the folder in what /proc shows of this process's environment, where room was left.

    So whoever looks for a container's processes by its mark finds its shim, too.
    """
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    ctypes.memmove(libc.getenv(CONTAINER_MARK.encode()), folder + b"\0", len(folder) + 1)


def main(control: int) -> None:
    """Run the container whose folder comes, unless another shim or a tombstone has claimed it.

    The end of `control` instead of a folder: this shim is not needed. Closing our end tells the
    runtime that what could be recorded of the start is recorded.
    """
    os.setsid()
    _close_inherited(keep=control)
    os.set_inheritable(control, False)
    wake = _catch_signals()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    own_identity, program = identity(os.getpid()), Waiting(control)
    folder = os.read(control, PATH_BYTES_MAX)
    if not folder:
        return
    os.chdir(folder)
    _open_log()
    _show_mark(folder)
    with open(CONFIG, encoding="utf-8") as file:
        config = json.load(file)
    if not take_claim({"shim": own_identity}, sync=False):
        return
    supervisor = Supervisor(config, program, wake)
    supervisor.start()
    os.close(control)
    supervisor.watch()
    supervisor.finish()


if __name__ == "__main__":
    main(int(sys.argv[1]))
