"""What a container is bounded by, as the engine is told it.

That each bound holds is shown by attempts to break it: tests/contract/container_runtime.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.chassis.errors import InvalidArgument
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.runtime_docker.hardening import (
    Hardening,
    Users,
    container_config,
    masked_paths,
    thread_environment,
)
from services.scheduler.domain.attempts.runtime import ContainerSpec
from services.scheduler.domain.resources import MEMORY_BYTES_MIN

MIB = 1 << 20
HARDENING = Hardening(
    pids_max=64,
    open_files_max=128,
    tmp_bytes=16 * MIB,
    shared_memory_bytes=8 * MIB,
    log_file_bytes=MIB,
    log_files_max=2,
)
SPEC = ContainerSpec(
    name="container",
    tenant=TenantId("default"),
    image="modelyard/base",
    command=("true",),
    memory_bytes=256 * MIB,
    cpu_millicores=1_500,
)
FORBIDDEN = {
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd"),
    *("keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd", "memfd_secret"),
    *("unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "fsopen", "move_mount"),
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot"),
    *("open_by_handle_at", "name_to_handle_at", "syslog", "swapon", "quotactl", "acct", "mq_open"),
    *("socketcall", "ipc", "modify_ldt", "iopl", "ioperm", "settimeofday", "clock_settime"),
}


def _host_config(spec: ContainerSpec = SPEC) -> dict[str, Any]:
    host_config: dict[str, Any] = container_config(spec, HARDENING, uid=65532)["HostConfig"]
    return host_config


def _profile() -> dict[str, Any]:
    _, option = _host_config()["SecurityOpt"]
    profile: dict[str, Any] = json.loads(option.removeprefix("seccomp="))
    return profile


def test_a_container_has_no_privileges() -> None:
    config = container_config(SPEC, HARDENING, uid=65532)

    assert config["User"] == "65532:65532"
    assert config["Healthcheck"] == {"Test": ["NONE"]}
    host_config = config["HostConfig"]
    assert host_config["CapDrop"] == ["ALL"]
    assert host_config["SecurityOpt"][0] == "no-new-privileges"
    assert host_config["ReadonlyRootfs"]
    assert not host_config["Privileged"]
    assert not host_config["Devices"]


def test_what_tells_of_the_machine_is_masked_and_of_each_core_how_hot_it_ran(
    tmp_path: Path,
) -> None:
    for core in ("cpu0/thermal_throttle", "cpu17/thermal_throttle", "cpu3", "cpuidle"):
        (tmp_path / core).mkdir(parents=True)

    masked = masked_paths(cores=tmp_path)

    assert "/proc/interrupts" in masked
    assert set(masked) - set(masked_paths(cores=tmp_path / "none")) == {
        str(tmp_path / "cpu0" / "thermal_throttle"),
        str(tmp_path / "cpu17" / "thermal_throttle"),
    }
    assert _host_config()["MaskedPaths"] == list(masked_paths())


def test_limits_are_those_of_the_spec_and_the_node() -> None:
    host_config = _host_config()

    assert host_config["Memory"] == host_config["MemorySwap"] == 256 * MIB
    assert host_config["CpuQuota"] / host_config["CpuPeriod"] == 1.5
    assert host_config["PidsLimit"] == 64
    assert {"Name": "nofile", "Soft": 128, "Hard": 128} in host_config["Ulimits"]
    assert host_config["LogConfig"]["Config"] == {"max-size": str(MIB), "max-file": "2"}


def test_what_the_spec_does_not_bound_is_left_open() -> None:
    spec = replace(SPEC, memory_bytes=None, cpu_millicores=None)

    assert not {"Memory", "MemorySwap", "CpuQuota"} & _host_config(spec).keys()
    assert thread_environment(spec) == {}


def test_file_systems_in_memory_are_full_before_the_memory_is() -> None:
    assert "size=16777216" in _host_config()["Tmpfs"]["/tmp"]
    assert _host_config()["ShmSize"] == 8 * MIB

    small = replace(SPEC, memory_bytes=16 * MIB)

    assert f"size={4 * MIB}" in _host_config(small)["Tmpfs"]["/tmp"]
    assert _host_config(small)["ShmSize"] == 4 * MIB


def test_memory_that_no_container_starts_with_is_refused_whatever_runs_it() -> None:
    assert _host_config(replace(SPEC, memory_bytes=MEMORY_BYTES_MIN))["Memory"] == 6 * MIB
    with pytest.raises(InvalidArgument, match=r"container\.memory_bytes"):
        replace(SPEC, memory_bytes=MEMORY_BYTES_MIN - 1)


def test_cpu_below_the_engines_least_is_raised() -> None:
    assert _host_config(replace(SPEC, cpu_millicores=1))["CpuQuota"] == 1_000


@pytest.mark.parametrize(("millicores", "threads"), [(1, "1"), (1_000, "1"), (1_001, "2")])
def test_programs_are_told_how_many_threads_they_may_use(millicores: int, threads: str) -> None:
    environment = thread_environment(replace(SPEC, cpu_millicores=millicores))

    assert set(environment.values()) == {threads}


def test_system_calls_are_refused_unless_named() -> None:
    profile = _profile()
    allowed = {name for rule in profile["syscalls"] for name in rule["names"]}

    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert not allowed & FORBIDDEN


def test_only_the_machines_own_system_calls_are_known() -> None:
    """A 32-bit program would reach sockets by `socketcall`, whose arguments no filter sees."""
    assert all(not machine["subArchitectures"] for machine in _profile()["archMap"])


def test_calls_that_are_allowed_for_some_arguments_have_no_rule_without() -> None:
    conditional = {
        *("socket", "socketpair", "clone", "mmap", "memfd_create", "shmget", "personality"),
    }
    for rule in _profile()["syscalls"]:
        if conditional & set(rule["names"]):
            assert rule["args"], rule["names"]


def test_a_tenant_is_always_the_same_user_of_the_range() -> None:
    users = Users(first=1_000, count=10)
    found = {users.of(TenantId(f"tenant-{number}")) for number in range(200)}

    assert found == set(range(1_000, 1_010))
    assert users.of(TenantId("acme")) == users.of(TenantId("acme"))
