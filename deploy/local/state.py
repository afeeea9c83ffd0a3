"""The state folder: what was started, on which ports, and where everything lies.

Owns: `.modelyard/` (or `MODELYARD_STATE`) with `stack.json`, secrets, logs and data of one stack,
and the tools folder with what is fetched or built once for all stacks of a checkout (jars, Jaeger,
environments). Leaves to `processes` what a record means.

Always holds: `stack.json` is replaced whole; secrets are readable by their owner only.
"""

import fcntl
import hashlib
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from deploy.local.errors import StackError
from deploy.local.waiting import wait_until

CHECKOUT: Final = Path(__file__).resolve().parents[2]
"""The root of the working tree that this package belongs to."""

_SAVE_LOCK_WAIT_MAX_S: Final = 30.0
_COMMAND_LOCK_WAIT_MAX_S: Final = 600.0
_TOOL_LOCK_WAIT_MAX_S: Final = 900.0
_threads = threading.RLock()


class ProcessRecord(msgspec.Struct, frozen=True):
    """Enough to tell a process from any other that may get its number later."""

    pid: int
    started_ticks: int
    boot_id: str
    address: str
    log: str
    stop_signal: int
    stop_grace_s: float


class StackRecord(msgspec.Struct):
    """What `stack.json` holds; `processes` are in the order of their start."""

    ports: dict[str, int] = {}
    processes: dict[str, ProcessRecord] = {}
    folders: dict[str, str] = {}
    """Folders outside of the state folder, by part; removed by `clean`."""
    runtime: str = ""
    """Where containers run, from `up` to `down`; empty: not chosen."""
    engine: str = ""
    """The Docker engine that they run on, if they do."""
    images: dict[str, str] = {}
    """The operator's own, name → reference, as last told."""
    is_node_closed: bool = False
    """Whether `down` has closed the node, which `up` is to open again."""


@dataclass(frozen=True, slots=True)
class State:
    """One stack's folder, and the tools that it shares with the other stacks of the checkout."""

    root: Path
    tools: Path = CHECKOUT / ".modelyard"

    @staticmethod
    def of_environment() -> "State":
        """Return the checkout's state folder, or the one that `MODELYARD_STATE` names."""
        root = os.environ.get("MODELYARD_STATE")
        return State(Path(root).resolve() if root else CHECKOUT / ".modelyard")

    @property
    def key(self) -> str:
        """Return a short name that differs for every state folder of the machine."""
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:12]

    def folder(self, *names: str) -> Path:
        """Return a folder below the state folder, made if need be."""
        folder = self.root.joinpath(*names)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def log_of(self, part: str) -> Path:
        """Return the file that takes what a part prints."""
        return self.folder("logs") / f"{part}.log"

    def read(self) -> StackRecord:
        """Return what is recorded; an empty record where nothing was ever started."""
        try:
            return msgspec.json.decode((self.root / "stack.json").read_bytes(), type=StackRecord)
        except FileNotFoundError:
            return StackRecord()
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise StackError(f"{self.root / 'stack.json'} can't be read: {error}.") from error

    @contextmanager
    def changing(self) -> Iterator[StackRecord]:
        """Give the record to change, alone among threads and processes; saved on a clean exit."""
        with _threads, self._locked("stack.lock", within_s=_SAVE_LOCK_WAIT_MAX_S):
            record = self.read()
            yield record
            text = msgspec.json.format(msgspec.json.encode(record), indent=2)
            write_private(self.root / "stack.json", text)

    @contextmanager
    def command(self) -> Iterator[None]:
        """Let one `up` or `down` at a time work on this folder."""
        with self._locked("command.lock", within_s=_COMMAND_LOCK_WAIT_MAX_S):
            yield

    @contextmanager
    def tool(self, name: str) -> Iterator[Path]:
        """Give a tool's folder to fill, alone among all stacks of the checkout."""
        folder = self.tools / name
        folder.mkdir(parents=True, exist_ok=True)
        with _locked_file(folder / ".lock", within_s=_TOOL_LOCK_WAIT_MAX_S):
            yield folder

    @contextmanager
    def _locked(self, name: str, *, within_s: float) -> Iterator[None]:
        with _locked_file(self.folder() / name, within_s=within_s):
            yield

    def secret(self, name: str) -> str:
        """Return the secret of this name, made at its first use."""
        path = self.folder("secrets") / name
        path.parent.chmod(0o700)
        with _threads:
            if not path.exists():
                write_private(path, secrets.token_urlsafe(24).encode())
            return path.read_text()

    @property
    def settings_file(self) -> Path:
        """Return the file in which the operator writes settings of the services; theirs to keep."""
        return self.root / "settings.env"

    def _entries_to_remove(self) -> list[Path]:
        if not self.root.exists():
            return []
        kept = {self.settings_file.name, *(TOOL_FOLDERS if self.root == self.tools else ())}
        entries = [entry for entry in self.root.iterdir() if entry.name not in kept]
        return [*entries, self.root / "kafka" / "data"]

    def clean(self) -> None:
        """Remove all data of this stack, but not the tools and the operator's settings.

        The stack must be down.
        """
        for folder in self.read().folders.values():
            shutil.rmtree(folder, ignore_errors=True)
        for entry in self._entries_to_remove():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or never made
            self.root.rmdir()


TOOL_FOLDERS: Final = ("uv", "java", "kafka", "jaeger", "environments", "engine", "images")
"""What `clean` keeps when the tools lie in the same folder: costly to fetch or build again."""


def write_private(path: Path, content: bytes) -> None:
    """Replace a file whole, with content that only its owner may read."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


@contextmanager
def _locked_file(path: Path, *, within_s: float) -> Iterator[None]:
    with path.open("a") as file:

        def taken() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        wait_until(taken, within_s=within_s, otherwise=f"Another command holds {path}")
        yield
