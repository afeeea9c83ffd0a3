"""What an engine must be able to keep, so that its containers are bounded as `hardening.py` says.

An engine drops a limit that its kernel can't keep, and says so in a warning that nobody reads. So
it is asked before anything is placed on it, and again with each ping: it may come up later than its
runner, on another kernel.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from services.scheduler.adapters.runtime_docker.engine import Json

_SWAPS: Final = Path("/proc/swaps")
_LIMITS: Final = {
    "MemoryLimit": "a memory limit",
    "CpuCfsPeriod": "a CPU limit",
    "CpuCfsQuota": "a CPU limit",
    "PidsLimit": "a limit of processes",
}


def lacking(info: Json, *, has_swap: bool) -> Sequence[str]:
    """Return what an engine can't keep, from what it tells of itself."""
    lacks = [limit for field, limit in _LIMITS.items() if not info.get(field)]
    if has_swap and not info.get("SwapLimit"):  # else there is none to be used beyond the memory
        lacks.append("a limit of swap")
    options = info.get("SecurityOptions") or ()
    if not any(option.startswith("name=seccomp") for option in options):
        lacks.append("a list of system calls")
    return list(dict.fromkeys(lacks))


def machine_has_swap(swaps: Path = _SWAPS) -> bool:
    """Return whether this machine, which is the engine's, has any swap; raises OSError."""
    try:
        return len(swaps.read_text().splitlines()) > 1
    except FileNotFoundError:  # its kernel knows no swap
        return False
