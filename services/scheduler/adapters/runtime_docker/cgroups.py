"""Whether the kernel killed something in a container for memory, as the kernel tells it.

The engine is told of it by an event that it waits for only once the program runs: what is killed
right at the start it does not know of (seen with 20.10). Cgroup v1 and v2, and hosts with both.
"""

from pathlib import Path
from typing import Final

_PROCESSES: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")


def has_killed_for_memory(
    container_id: str, pid: int, *, processes: Path = _PROCESSES, cgroups: Path = _CGROUPS
) -> bool:
    """Return whether a process of the container that `pid` belongs to was killed for memory."""
    try:
        lines = (processes / str(pid) / "cgroup").read_text().splitlines()
    except OSError:  # it has ended
        return False
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if container_id not in path:  # its number is another process's by now
            continue
        if "memory" in controllers.split(","):
            return _counts_kills(cgroups / "memory" / path.lstrip("/") / "memory.oom_control")
        if not controllers and _counts_kills(cgroups / path.lstrip("/") / "memory.events"):
            return True
    return False


def _counts_kills(file: Path) -> bool:
    try:
        counts = dict(line.split() for line in file.read_text().splitlines())
    except OSError:  # it has ended, and its cgroup goes
        return False
    return int(counts.get("oom_kill", 0)) > 0
