"""One real server of a kind for a whole test run, whichever of its processes needs it first.

Owns: the run's state folder and who stops a shared part. A user holds a shared file lock for as
long as it uses a part; whoever gets that lock alone at its own end stops the part. The kernel gives
the lock of a crashed worker back, so a count can't go wrong.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from filelock import FileLock

from deploy.local import stack
from deploy.local.state import State

T = TypeVar("T")

_FOLDER_VARIABLE: Final = "MODELYARD_TEST_RUN"
_START_MAX_S: Final = 300.0


def open_run() -> None:
    """Name the run's folder in the process that pytest began as; workers inherit the name."""
    if not is_worker():
        name = f"modelyard-tests-{secrets.token_hex(4)}"
        os.environ[_FOLDER_VARIABLE] = str(Path(tempfile.gettempdir()) / name)


def close_run() -> None:
    """Stop whatever crashed workers left running, and remove the run's folder."""
    if is_worker() or not (state := run_state()).root.exists():
        return
    stack.clean(state)
    shutil.rmtree(state.root, ignore_errors=True)


def run_state() -> State:
    """Return the run's state folder; apart from any stack that is up."""
    return State(Path(os.environ[_FOLDER_VARIABLE]))


def worker_number() -> int:
    """Return this process's number among the run's workers; 0 where there is only one."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def once(name: str) -> FileLock:
    """Return a lock among the run's workers, for what only the first one does."""
    return FileLock(run_state().folder("locks") / f"{name}.lock", timeout=_START_MAX_S)


@contextmanager
def shared(name: str, start: Callable[[State], T], halt: Callable[[State], object]) -> Iterator[T]:
    """Give a part that is started by its first user in the run and stopped by its last one."""
    state = run_state()
    with (state.folder("locks") / f"{name}.users").open("a") as users:
        with once(name):
            part = start(state)
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield part
        finally:
            with once(name):
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pass  # somebody else's tests still use it
                else:
                    halt(state)


def is_worker() -> bool:
    """Return whether this process is one of several that share the run's tests."""
    return "PYTEST_XDIST_WORKER" in os.environ
