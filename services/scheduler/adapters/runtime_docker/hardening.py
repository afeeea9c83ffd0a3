"""What is taken from a container before its program runs, in the Engine API's words.

Owns: every control of ADR-0015 that is a field of `POST /containers/create`, and the system calls
of `seccomp.json`. Leaves to the adapter image, command, environment, mounts and network.

Pure, but for which cores this machine, the engine's, has; and the same for cgroup v1 and v2: fields
that only one of them knows are not used. Read-only paths below /proc stay the engine's.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.runtime import ContainerSpec

_CPU_PERIOD_US: Final = 100_000
_CPU_QUOTA_US_MIN: Final = 1_000
"""The engine accepts no lower limit."""
_OOM_SCORE_ADJ: Final = 500
"""Where the machine itself runs out of memory, containers go before its services."""
_TMP: Final = "/tmp"  # noqa: S108 the container's own, and empty
_MASKED: Final = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys"),
    *("/proc/latency_stats", "/proc/pressure", "/proc/sched_debug", "/proc/scsi"),
    *("/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"),
)
"""Tell of the machine, or of its other containers. What Moby masks in 2026, which engines of before
do not; and /proc/pressure, where anybody may register."""
_CORES: Final = Path("/sys/devices/system/cpu")
_MEMORY_SHARE_OF_A_FILE_SYSTEM: Final = 4
"""A file system in memory may take a quarter of a container's: it is full before that is."""


@dataclass(frozen=True, slots=True)
class Hardening:
    """What every container of a node is bounded by, beside what its spec asks for."""

    pids_max: int
    open_files_max: int
    tmp_bytes: int
    shared_memory_bytes: int
    log_file_bytes: int
    log_files_max: int


@dataclass(frozen=True, slots=True)
class Users:
    """The users that programs are, on the disk too: each tenant one of a range.

    The kernel counts some things by user over all containers, such as inotify instances. Two
    tenants may come out as one; they share these counts then, and nothing else.
    """

    first: int
    count: int

    def of(self, tenant: TenantId) -> int:
        """Return a tenant's user and group, always the same."""
        return self.first + crc32(tenant.encode()) % self.count


def container_config(spec: ContainerSpec, hardening: Hardening, *, uid: int) -> dict[str, Any]:
    """Return the fields that bound a container.

    `HostConfig` is the caller's to extend by mounts and network. `uid` is user and group of its
    programs, which never is root.
    """
    assert uid > 0, "a program is never root"
    return {
        "User": f"{uid}:{uid}",
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},  # the image's would run unasked, beside the program
        "HostConfig": {
            **_privileges(),
            **_resources(spec, hardening),
            **_file_systems(spec, hardening),
            "RestartPolicy": {"Name": "no"},  # an attempt starts at most once
            "LogConfig": {
                "Type": "json-file",
                "Config": {
                    "max-size": str(hardening.log_file_bytes),
                    "max-file": str(hardening.log_files_max),
                },
            },
        },
    }


def thread_environment(spec: ContainerSpec) -> Mapping[str, str]:
    """Return how many threads a program should start; its own environment goes before.

    /proc shows the machine's cores: without a word each pool would have a thread for every one.
    OpenBLAS, MKL, PyTorch and NumExpr follow OpenMP's variable, Python from 3.13 on its own.
    """
    if spec.cpu_millicores is None:
        return {}
    threads = str(max(1, -(-spec.cpu_millicores // 1_000)))
    return {"OMP_NUM_THREADS": threads, "PYTHON_CPU_COUNT": threads}


@cache
def masked_paths(*, cores: Path = _CORES) -> Sequence[str]:
    """Return what is not shown: this list takes the place of the engine's own.

    How often each core ran hot tells what others do on it, on machines that count that, as
    /proc/interrupts does: https://github.com/moby/moby/security/advisories/GHSA-6fw5-f8r9-fgfm.
    """
    return (*_MASKED, *sorted(map(str, cores.glob("cpu[0-9]*/thermal_throttle"))))


def _privileges() -> dict[str, Any]:
    return {
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", f"seccomp={_seccomp_profile()}"],
        "Devices": [],
        "IpcMode": "private",
        "CgroupnsMode": "private",  # else /proc/self/cgroup tells the machine's paths
        "Init": True,  # reaps orphans, and makes signals work as outside: PID 1 ignores them
        "MaskedPaths": list(masked_paths()),
        "Dns": ["127.0.0.1"],  # nobody: the engine would pass questions on to the machine's
        "DnsOptions": ["timeout:1", "attempts:1"],  # no engine says at once that it does not know
    }


def _resources(spec: ContainerSpec, hardening: Hardening) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "PidsLimit": hardening.pids_max,
        "OomScoreAdj": _OOM_SCORE_ADJ,
        # Never nproc: it counts a user's processes over all containers.
        "Ulimits": [
            {"Name": "nofile", "Soft": hardening.open_files_max, "Hard": hardening.open_files_max},
            {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "msgqueue", "Soft": 0, "Hard": 0},  # /dev/mqueue can't be mounted read-only
        ],
    }
    if spec.memory_bytes is not None:
        fields["Memory"] = fields["MemorySwap"] = spec.memory_bytes  # equal: no swap at all
    if spec.cpu_millicores is not None:
        # Not NanoCpus: the engine refuses more of them than the machine has cores.
        quota = spec.cpu_millicores * _CPU_PERIOD_US // 1_000
        fields["CpuPeriod"] = _CPU_PERIOD_US
        fields["CpuQuota"] = max(quota, _CPU_QUOTA_US_MIN)
    return fields


def _file_systems(spec: ContainerSpec, hardening: Hardening) -> dict[str, Any]:
    def bounded(size: int) -> int:
        if spec.memory_bytes is None:
            return size
        return min(size, spec.memory_bytes // _MEMORY_SHARE_OF_A_FILE_SYSTEM)

    return {
        "ReadonlyRootfs": True,
        # With exec: programs bring code of their own anyway, and compilers load what they put here.
        "Tmpfs": {_TMP: f"rw,exec,nosuid,nodev,mode=1777,size={bounded(hardening.tmp_bytes)}"},
        "ShmSize": bounded(hardening.shared_memory_bytes),
    }


@cache
def _seccomp_profile() -> str:
    text = Path(__file__).with_name("seccomp.json").read_text(encoding="utf-8")
    return json.dumps(json.loads(text), separators=(",", ":"))
