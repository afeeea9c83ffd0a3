"""Look for more than one was given: rights, other people's processes, sockets, secrets."""

import json
import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def status(pid: str) -> dict[str, str]:
    """Return what /proc tells of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def all_files() -> list[str]:
    """Return every path outside /proc and /sys."""
    return [
        os.path.join(folder, name)
        for top in sorted(set(os.listdir("/")) - {"proc", "sys"})
        for folder, _, names in os.walk(f"/{top}")
        for name in names
    ]


def effective_ids_of(program: str) -> list[int]:
    """Run a program that is to run as its owner or group; return who it is then."""
    with subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        ids = [int(status(str(process.pid))[name].split()[1]) for name in ("Uid", "Gid")]
        process.kill()
    return ids


def error_of_writing(path: str, text: str) -> str:
    """Return why a file can't be written."""
    try:
        Path(path).write_text(text)
    except OSError as error:
        return str(error.strerror)
    return "written"


modes = {}
for path in all_files():
    with suppress(OSError):
        modes[path] = os.lstat(path).st_mode
pids = [name for name in os.listdir("/proc") if name.isdigit()]
own = status("self")
told = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid")
environments = []
for pid in pids:
    with suppress(OSError):
        environments.append(Path(f"/proc/{pid}/environ").read_text())
sys.stdout.write(
    json.dumps(
        {
            "status": {name: own[name] for name in told},
            "groups": own["Groups"].split(),
            "programs_as_their_owner": {
                path: effective_ids_of(path)
                for path, mode in modes.items()
                if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID)
            },
            "process_count": len(pids),
            "environments": environments,
            "sockets": [path for path, mode in modes.items() if stat.S_ISSOCK(mode)],
            "disks": [path for path, mode in modes.items() if stat.S_ISBLK(mode)],
            "be_spared_when_memory_is_short": error_of_writing("/proc/self/oom_score_adj", "-1000"),
            "give_oneself_more_memory": [
                error_of_writing(path, "-1")
                for path in (
                    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                    "/sys/fs/cgroup/memory.max",
                )
                if os.path.exists(path)
            ],
            "decoy": os.path.exists(os.environ["DECOY_FILE"]),
        }
    )
)
