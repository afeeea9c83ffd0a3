"""A Docker engine of the checkout's own, where the machine runs none.

Owns: installing, starting, adopting and stopping it, and who still uses it. Its images are kept in
the tools folder; its socket and whatever a reboot makes worthless lie below /run, since the path of
a socket may have 107 bytes at most (unix(7)).

It leaves other engines alone: a second engine that managed the firewall would empty the chains of
the first (seen with 20.10). So this one doesn't, and needs no more than the static rules of
`fence`: networks of tenants are internal. Containers outlive its crash (live-restore).

Always holds: after `stop` there is no container, bridge, mount, rule or process of it.
"""

import contextlib
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local import fence
from deploy.local.engine import Engine
from deploy.local.errors import StackError
from deploy.local.processes import (
    STACK_MARK,
    Program,
    end_marked,
    is_alive,
    launch,
    require_alive,
    run_tool,
    running,
    stack_environment,
    stop,
)
from deploy.local.state import ProcessRecord, State
from deploy.local.waiting import wait_until

PART: Final = "docker"

_PACKAGES: Final = ("docker.io", "iptables", "iproute2", "mmdebstrap")
_PROGRAMS: Final = ("dockerd", "iptables", "ip", "mmdebstrap")
_INSTALL_MAX_S: Final = 300.0
_START_MAX_S: Final = 60.0
_STOP_GRACE_S: Final = 20.0
_KILL_WAIT_MAX_S: Final = 10.0
_ADDRESS_POOLS: Final = ("base=10.89.0.0/16,size=26", "base=172.29.0.0/16,size=26")
"""A network a tenant, 61 containers in each, from ranges that other engines don't begin with. The
engine leaves out what this machine has a route to."""


@dataclass(frozen=True, slots=True)
class OwnEngine:
    """One engine of a checkout: `stacks` is what its stacks share, each test run has another."""

    state: State
    """Of the engine alone: its process, its log, its data; the tools are the checkout's."""

    @staticmethod
    def of(tools: Path, name: str = "stacks") -> "OwnEngine":
        """Return the engine of this name, which need not run."""
        return OwnEngine(State(tools / "engine" / name, tools=tools))

    @property
    def engine(self) -> Engine:
        """The engine's API."""
        return Engine(f"unix://{self._run_folder / 'docker.sock'}")

    @property
    def data(self) -> Path:
        """The engine's root directory."""
        return self.state.root / "data"

    @property
    def record(self) -> ProcessRecord | None:
        """The engine's process, if it runs."""
        return running(self.state, PART)

    @property
    def log(self) -> Path:
        """What the engine prints."""
        return self.state.log_of(PART)

    @property
    def _run_folder(self) -> Path:
        return Path("/run") / f"modelyard-{self.state.key}"

    def start(self) -> Engine:
        """Start or adopt the engine; return it once it answers."""
        with self.state.command():
            return self._start()

    def _start(self) -> Engine:
        was_started = PART in self.state.read().processes
        fence.put_up(self.state.key)
        try:
            return self._running()
        except StackError:
            if not was_started:  # so nothing runs on it, and nobody would stop it
                self._end()
            raise

    def _running(self) -> Engine:
        if (record := self.record) is None:
            record = self._launch()

        def ready() -> bool:
            require_alive(record, part="the Docker engine")
            return self.engine.answers()

        otherwise = f"The Docker engine does not answer, see {record.log}"
        wait_until(ready, within_s=_START_MAX_S, otherwise=otherwise)
        return self.engine

    def _launch(self) -> ProcessRecord:
        print("Starting a Docker engine of the checkout's own (a few seconds).", flush=True)
        folder = self._run_folder
        folder.mkdir(mode=0o700, exist_ok=True)
        pid_file = folder / "docker.pid"
        pid_file.unlink(missing_ok=True)  # of a crash; its number may be somebody else's by now
        self._end_containerd()
        return launch(
            self.state,
            Program(
                part=PART,
                command=[
                    *("dockerd", "--live-restore", "--bridge", "none"),
                    *("--iptables=false", "--ip6tables=false"),
                    *("--ip-forward=false", "--ip-masq=false"),
                    *("--data-root", str(self.data), "--exec-root", str(folder / "exec")),
                    *("--host", self.engine.url, "--pidfile", str(pid_file)),
                    *(
                        argument
                        for pool in _ADDRESS_POOLS
                        for argument in ("--default-address-pool", pool)
                    ),
                ],
                address=self.engine.url,
                environment=stack_environment(self.state),
                folder=folder,
                stop_grace_s=_STOP_GRACE_S,
            ),
        )

    def _end_containerd(self) -> None:
        """End the helper of a killed engine: a new one would wait for it while it dies."""
        folder = self._run_folder / "exec" / "containerd"
        pid_file = folder / "containerd.pid"
        if not pid_file.exists():
            return
        command = Path("/proc") / pid_file.read_text().strip() / "cmdline"

        def is_gone() -> bool:  # as a zombie it has no command line any more
            try:
                return str(folder).encode() not in command.read_bytes()
            except OSError:  # it ends as it is looked at
                return True

        if not is_gone():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(command.parent.name), signal.SIGKILL)
        wait_until(is_gone, within_s=_KILL_WAIT_MAX_S, otherwise="containerd did not end")
        pid_file.unlink()

    def stop(self) -> bool:
        """End the engine and whatever runs on it, and keep its images; return whether there was.

        One that has crashed is started for it: it alone knows what it left behind.
        """
        with self.state.command():
            return self._stop()

    def _stop(self) -> bool:
        if PART not in self.state.read().processes:
            return False
        self._revive()
        bridges = self.engine.bridges()
        self.engine.remove_all()
        self._end(bridges)
        return True

    def _end(self, bridges: Sequence[str] = ()) -> None:
        """End its processes, and remove what it has of this machine."""
        stop(self.state, PART)
        end_marked(STACK_MARK, self.state, grace_s=_STOP_GRACE_S)
        self._unmount()
        _delete_interfaces(bridges)
        shutil.rmtree(self._run_folder, ignore_errors=True)
        fence.take_down(self.state.key)

    def _revive(self) -> None:
        """Start an engine that has crashed; one that runs and does not answer is killed before."""
        if self.engine.answers():
            return
        if (record := self.record) is not None:
            os.kill(record.pid, signal.SIGKILL)
            otherwise = "The Docker engine did not end after SIGKILL"
            wait_until(lambda: not is_alive(record), within_s=_KILL_WAIT_MAX_S, otherwise=otherwise)
        self._start()

    def _unmount(self) -> None:
        below = (f"{self.state.root}/", f"{self._run_folder}/")
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed(mounts):
            if mount.startswith(below):
                run_tool(["umount", "-l", mount], needed_for="of the Docker engine", within_s=30)

    def use(self, user: State) -> Engine:
        """Start or adopt the engine, and note a stack that uses it until `release`."""
        with self.state.command():
            engine = self._start()
            self._note_of(user).write_text(str(user.root))
            return engine

    def release(self, user: State, *, label: str) -> int:
        """Remove what bears a label, of a stack that has gone down; return how many containers.

        The engine stops with the last of its stacks.
        """
        with self.state.command():
            self._revive()
            removed = self.engine.remove_all(label)
            self._note_of(user).unlink(missing_ok=True)
            self._stop_unused()
            return removed

    def stop_unused(self) -> None:
        """Stop the engine unless a stack uses it that is up."""
        with self.state.command():
            self._stop_unused()

    def _stop_unused(self) -> None:
        if not any(_runs(State(Path(note.read_text()))) for note in self._notes.iterdir()):
            shutil.rmtree(self._notes)
            self._stop()

    @property
    def _notes(self) -> Path:
        return self.state.folder("users")

    def _note_of(self, user: State) -> Path:
        return self._notes / user.key


def _delete_interfaces(names: Sequence[str]) -> None:
    """Delete the bridges of networks that the engine would not let go of after a crash."""
    for name in names:
        if Path("/sys/class/net", name).exists():
            command = ["ip", "link", "delete", name]
            run_tool(command, needed_for="of a Docker network", within_s=_KILL_WAIT_MAX_S)


def missing() -> list[str]:
    """Return what has to be installed before an own engine can be started with its images."""
    return [
        package
        for package, program in zip(_PACKAGES, _PROGRAMS, strict=True)
        if shutil.which(program) is None
    ]


def require_possible(because: str) -> None:
    """Raise a sentence that says why one of our own is needed, and what it lacks here."""
    if os.geteuid() != 0:
        raise StackError(f"{because}, and only root can start one of the checkout's own.")
    if packages := missing():
        needed = " ".join(packages)
        raise StackError(f"{because}; for one of the checkout's own, install {needed}.")


def install() -> None:
    """Install what is missing from the system's packages, as root and only when asked for it."""
    packages = missing()
    if not packages or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    print(f"Installing {' '.join(packages)} with apt-get, for a Docker engine.", flush=True)
    for arguments in (["update"], ["install", "--no-install-recommends", *packages]):
        run_tool(
            ["apt-get", "-q", "-y", *arguments],
            needed_for="which installs the Docker engine",
            within_s=_INSTALL_MAX_S,
            environment={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )


def _runs(stack: State) -> bool:
    return any(is_alive(record) for record in stack.read().processes.values())
