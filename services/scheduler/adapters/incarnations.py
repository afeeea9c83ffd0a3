"""Which processes of this node are dead: by the kernel's word, without waiting for a lease.

A process keeps the lock of a file that bears its name for as long as it lives; the kernel lets go
of it with the process, whatever its end was. So whoever gets the lock knows that this process will
never act again, and its leases need not run out first (ADR-0007). Leaves everybody without a file
here to the lease's time.

Always holds: a file has its name only while its process lives, or did; no name is given twice. A
frozen process keeps its lock, and so its leases.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from loguru import logger

from services.chassis.errors import Unavailable

_UNNAMED: Final = "."


class HeldByDead(Protocol):
    """Leases of processes; PostgreSQL's."""

    async def release_all(self, holder: str) -> int:
        """Let all leases of a holder expire; return how many. Raises Unavailable."""
        ...


@contextmanager
def living_as(name: str, folder: Path) -> Iterator[None]:
    """Show others on this machine that this process lives, for as long as it does."""
    folder.mkdir(parents=True, exist_ok=True)
    unnamed, named = folder / f"{_UNNAMED}{name}", folder / name
    with unnamed.open("w") as file:  # no child inherits it: children outlive their parent here
        fcntl.flock(file, fcntl.LOCK_EX)
        unnamed.rename(named)
        try:
            yield
        finally:
            named.unlink(missing_ok=True)


async def release_leases_of_the_dead(folder: Path, leases: HeldByDead) -> None:
    """Give back what processes of this node have held that died without doing so."""
    for name in _dead(folder):
        try:
            count = await leases.release_all(name)
        except Unavailable as error:  # their time runs out by itself
            logger.warning("leases of a dead process not released", error=error.message)
            return
        logger.info("leases of a dead process released", holder=name, lease_count=count)
        (folder / name).unlink(missing_ok=True)


def _dead(folder: Path) -> list[str]:
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(_UNNAMED))
    return [path.name for path in files if _is_unlocked(path)]


def _is_unlocked(path: Path) -> bool:
    with suppress(FileNotFoundError, BlockingIOError), path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
