"""Each control of a hardened container, proven by an attempt to break it.

The attempts are the programs in `attacks/`. They run as a tenant's would, and are judged by what
they brought about: on this machine where that can be seen, else by what the kernel told them.
"""

import asyncio
import errno
import ipaddress
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from services.chassis.errors import InvalidArgument, NotFound
from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.runtime import ContainerStatus, EndCause, PlacedFile
from tests.contract.container_runtime.kit import (
    HARDENING,
    NO_GRACE,
    NOT_AT_ONCE,
    TENANT,
    USERS,
    DockerKit,
)

ATTACKS: Final = Path(__file__).with_name("attacks")
MIB: Final = 1 << 20
OTHER_TENANT: Final = TenantId("other")
SECRET: Final = "decoy-8f41c07d"
RESOLVER, METADATA, OUTSIDE = ("9.9.9.9", 53), ("169.254.169.254", 80), ("192.0.2.1", 443)
SERVER: Final = (
    "import socket\n"
    "server = socket.create_server(('0.0.0.0', 8080)); print('up')\n"
    "while True:\n"
    "    print('called by', server.accept()[1][0])"
)


def source(attack: str) -> str:
    """Return an attack's program."""
    return (ATTACKS / f"{attack}.py").read_text()


async def answer(kit: DockerKit, attack: str, **changes: Any) -> Any:
    """Run an attack to its end; return what it tells."""
    return await told(kit, await kit.ran(source(attack), **changes))


async def told(kit: DockerKit, status: ContainerStatus) -> Any:
    """Return what an attack that ended by itself has told."""
    assert status.exit is not None
    assert status.exit.code == 0, await kit.output(status.name, "stderr")
    return json.loads(await kit.output(status.name))


def text_of(file: Path) -> str:
    """Return what a file holds."""
    return file.read_text()


def names_in(folder: Path) -> list[str]:
    """Return what is in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def decoy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A secret of this machine, and one in the platform's environment."""
    monkeypatch.setenv("MODELYARD_POSTGRES__PASSWORD", SECRET)
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(0o644)  # anybody who reaches it may read it
    return file


# Limits


async def test_fork_bomb_stays_within_its_processes_and_the_engine_answers(
    docker_kit: DockerKit,
) -> None:
    name = await docker_kit.started(source("fork_bomb"), cpu_millicores=300)
    await docker_kit.said(name, "full")

    await docker_kit.answers()
    assert (await docker_kit.runtime.inspect(name)).exit is None
    counts = [len(docker_kit.processes_of(name)) for _ in range(10)]
    assert HARDENING.pids_max - 8 <= max(counts) <= HARDENING.pids_max

    await docker_kit.runtime.stop(name, grace=NO_GRACE)
    assert docker_kit.processes_of(name) == []


async def test_memory_bomb_ends_by_the_limit(docker_kit: DockerKit) -> None:
    program = f"{NOT_AT_ONCE}; hoard = []\n"
    program += "while True: hoard.append(bytearray(1 << 20)); print(len(hoard))"

    status = await docker_kit.ran(program, memory_bytes=32 * MIB)

    assert status.exit is not None
    assert status.exit.cause is EndCause.MEMORY_LIMIT
    assert status.exit.signal == signal.SIGKILL
    assert int((await docker_kit.output(status.name)).split()[-1]) <= 32


async def test_memory_limit_is_the_cause_when_it_ended_a_child_and_the_program_failed(
    docker_kit: DockerKit,
) -> None:
    program = (
        f"import os, sys; {NOT_AT_ONCE}\n"
        "child = os.fork()\n"
        "while child == 0: sys.path.append(bytearray(1 << 20))\n"
        "print(os.WTERMSIG(os.wait()[1])); sys.exit(3)"
    )

    status = await docker_kit.ran(program, memory_bytes=32 * MIB)

    assert status.exit is not None
    assert status.exit.cause is EndCause.MEMORY_LIMIT
    assert status.exit.code in {3, 128 + signal.SIGKILL}  # whoever is quicker: it, or the runtime


async def test_cpu_time_stays_within_the_limit(docker_kit: DockerKit) -> None:
    program = (
        "import os, time\n"
        "def used(): return sum(os.times()[:4])\n"
        "before, ends_at, child = used(), time.monotonic() + 1.5, os.fork()\n"
        "while time.monotonic() < ends_at: pass\n"
        "if child == 0: os._exit(0)\n"
        "os.wait(); print(used() - before)"
    )

    status = await docker_kit.ran(program, cpu_millicores=200)

    assert 0 < float(await docker_kit.output(status.name)) < 2 * 0.2 * 1.5


async def test_folders_in_memory_are_bounded(docker_kit: DockerKit) -> None:
    program = (
        "for path in '/tmp/big', '/dev/shm/big':\n"
        "    with open(path, 'wb', buffering=0) as file:\n"
        "        try:\n"
        "            while True: file.write(bytes(1 << 20))\n"
        "        except OSError as error: print(error.errno, file.tell())"
    )

    status = await docker_kit.ran(program, memory_bytes=256 * MIB)

    assert await docker_kit.output(status.name) == "".join(
        f"{errno.ENOSPC} {size}\n" for size in (HARDENING.tmp_bytes, HARDENING.shared_memory_bytes)
    )


async def test_open_files_are_bounded_and_a_crash_leaves_no_core(docker_kit: DockerKit) -> None:
    program = (
        "import os\n"
        "try:\n"
        "    while True: last = os.dup(1)\n"
        "except OSError as error: print(error.errno, last)\n"
        "os.abort()"
    )

    status = await docker_kit.ran(program)

    expected = f"{errno.EMFILE} {HARDENING.open_files_max - 1}\n"
    assert await docker_kit.output(status.name) == expected
    assert status.exit is not None
    assert status.exit.signal == signal.SIGABRT
    assert names_in(docker_kit.files(status.name) / "work") == []


async def test_output_flood_is_bounded_on_the_disk(docker_kit: DockerKit) -> None:
    flood = HARDENING.log_file_bytes * HARDENING.log_files_max * 3 // 2
    program = f"for _ in range({flood} // 1000): print('x' * 999)"

    status = await docker_kit.ran(program)

    kept = sum(file.stat().st_size for file in await docker_kit.log_files(status.name))
    assert HARDENING.log_file_bytes < kept
    assert kept < HARDENING.log_files_max * (HARDENING.log_file_bytes + 2_000)


# Files


async def test_only_its_own_folders_can_be_written(docker_kit: DockerKit) -> None:
    own = r"/modelyard/((work|outputs|checkpoint)/.*|progress\.jsonl)|/tmp/.*|/dev/shm/.*"

    written = await answer(docker_kit, "writes")

    assert [path for path in written if not re.fullmatch(own, path)] == []
    assert [path for path in written if path.startswith("/modelyard/work/")]  # it did try


async def test_inputs_stay_and_the_runner_is_not_led_away(
    docker_kit: DockerKit, decoy: Path
) -> None:
    status = await docker_kit.ran(
        source("files"),
        inputs=(PlacedFile("given", decoy),),
        environment={"DECOY_FILE": str(decoy)},
    )

    assert await told(docker_kit, status) == []
    files = docker_kit.files(status.name)
    assert text_of(decoy) == text_of(files / "inputs" / "given") == SECRET
    assert names_in(files / "inputs") == ["given"]
    assert not any((files / name).is_symlink() for name in names_in(files))
    for path in ("link", "folder"):
        with pytest.raises(InvalidArgument):
            await docker_kit.runtime.list_output(status.name, path, files_max=9, bytes_max=MIB)
    with pytest.raises(NotFound):
        await docker_kit.runtime.list_output(status.name, "moved", files_max=9, bytes_max=MIB)
    assert (await docker_kit.runtime.read_progress(status.name, offset=0)).data == b""


# Privileges


async def test_a_program_has_and_gains_no_privileges(docker_kit: DockerKit, decoy: Path) -> None:
    found = await answer(docker_kit, "privileges", environment={"DECOY_FILE": str(decoy)})

    uid = USERS.of(TENANT)
    none, ids = "0" * 16, "\t".join([str(uid)] * 4)
    assert found["status"] == {
        **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), none),
        "NoNewPrivs": "1",
        "Seccomp": "2",
        "Uid": ids,
        "Gid": ids,
    }
    assert found["groups"] in ([], [str(uid)])
    assert {tuple(ids) for ids in found["programs_as_their_owner"].values()} == {(uid, uid)}
    assert found["be_spared_when_memory_is_short"] == "Permission denied"
    assert "written" not in found["give_oneself_more_memory"]


async def test_nothing_of_the_machine_is_in_sight(docker_kit: DockerKit, decoy: Path) -> None:
    found = await answer(docker_kit, "privileges", environment={"DECOY_FILE": str(decoy)})

    assert found["process_count"] <= 2  # it, and the init that reaps for it
    assert SECRET not in "".join(found["environments"])
    assert found["sockets"] == []  # above all not the engine's
    assert found["disks"] == []
    assert not found["decoy"]


async def test_system_calls_that_no_program_needs_are_refused(docker_kit: DockerKit) -> None:
    found = await answer(docker_kit, "system_calls")

    assert found["calls"].pop("clone3") == "ENOSYS"  # then libraries use clone
    refusals = {**found["calls"], **found["clones"], **found["huge_pages"]}
    assert {name: said for name, said in refusals.items() if said != "EPERM"} == {}
    assert found["personality"] == "EPERM"
    assert set(found["other_machines"]) <= {signal.SIGSYS}


async def test_only_tcp_udp_and_local_sockets_can_be_had(docker_kit: DockerKit) -> None:
    found = {tuple(each) for each in (await answer(docker_kit, "system_calls"))["sockets"]}

    internet = {
        (family, kind, protocol)
        for family in (socket.AF_INET, socket.AF_INET6)
        for kind, protocols in (
            (socket.SOCK_STREAM, (0, socket.IPPROTO_TCP)),
            (socket.SOCK_DGRAM, (0, socket.IPPROTO_UDP)),
        )
        for protocol in protocols
    }
    assert {each for each in found if each[0] != socket.AF_UNIX} <= internet
    assert (socket.AF_INET, socket.SOCK_STREAM, 0) in found


# Network


class Trap:
    """A TCP and a UDP port on every address of this machine; whoever comes is remembered."""

    def __init__(self, tcp: socket.socket, udp: socket.socket) -> None:
        self._tcp, self._udp = tcp, udp
        self.port: int = tcp.getsockname()[1]

    def callers(self) -> list[str]:
        """Return who has come since it was asked before."""
        found: list[str] = []
        try:
            while True:
                connection, peer = self._tcp.accept()
                connection.close()
                found.append(peer[0])
        except BlockingIOError:
            pass
        try:
            while True:
                found.append(self._udp.recvfrom(64)[1][0])
        except BlockingIOError:
            return found


@contextmanager
def open_trap() -> Iterator[Trap]:
    """Listen until the block ends."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    dual = family == socket.AF_INET6
    with (
        socket.create_server(("", 0), family=family, dualstack_ipv6=dual, backlog=256) as tcp,
        socket.socket(family, socket.SOCK_DGRAM) as udp,
    ):
        if dual:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        udp.bind(("", tcp.getsockname()[1]))
        for each in (tcp, udp):
            each.setblocking(False)
        yield Trap(tcp, udp)


def addresses_of_this_machine() -> list[str]:
    """Return all that a container could try: not loopback, which is its own there."""
    table = Path("/proc/net/fib_trie").read_text()
    found = set(re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", table))
    if (six := Path("/proc/net/if_inet6")).exists():
        digits = [line.split()[0] for line in six.read_text().splitlines()]
        found |= {str(ipaddress.IPv6Address(bytes.fromhex(each))) for each in digits}
    return sorted(each for each in found if not ipaddress.ip_address(each).is_loopback)


def reachable_addresses() -> list[str]:
    """Return those that name this machine without saying by which interface."""
    machine = addresses_of_this_machine()
    return [each for each in machine if not ipaddress.ip_address(each).is_link_local]


async def server_of(kit: DockerKit, tenant: TenantId) -> tuple[str, str]:
    """Start a server that tells who calls; return its container's name and its address."""
    name = await kit.started(SERVER, tenant=tenant)
    await kit.said(name, "up")
    host = (await kit.runtime.inspect(name)).host
    assert host is not None
    return name, host


def is_reached_by_another_account(host: str) -> bool:
    """Return whether an account of this machine that is not the platform's gets an answer."""
    command = ["/bin/bash", "-c", f"exec 3<>/dev/tcp/{host}/8080"]
    done = subprocess.run(command, user=65534, capture_output=True, check=False)
    assert done.returncode == 0 or b"Connection refused" in done.stderr, done.stderr
    return done.returncode == 0


async def test_a_program_reaches_nobody_and_only_the_platform_reaches_it(
    docker_kit: DockerKit,
) -> None:
    tenants = (docker_kit.spec("").tenant, OTHER_TENANT)
    servers = [await server_of(docker_kit, tenant) for tenant in tenants]
    machine, reachable = addresses_of_this_machine(), reachable_addresses()
    with open_trap() as trap:
        for address, port in [(each, trap.port) for each in reachable] + [
            (host, 8080) for _, host in servers
        ]:
            socket.create_connection((address, port), timeout=5).close()
        assert len(trap.callers()) == len(reachable)  # the trap works
        for _, host in servers:
            assert not await asyncio.to_thread(is_reached_by_another_account, host)
        targets = [*((host, 8080) for _, host in servers), RESOLVER, METADATA, OUTSIDE]
        targets += [(each, port) for each in machine for port in (trap.port, 22, 53, 2375, 2376)]
        names = [docker_kit.spec("").name, "example.com", "host.docker.internal"]
        names += [servers[1][0]]  # the other tenant's container

        found = await answer(
            docker_kit,
            "connections",
            environment={"TARGETS": json.dumps(targets), "NAMES": json.dumps(names)},
        )

        assert trap.callers() == []
    assert found == {"connected": [], "resolved": []}
    for name, _ in servers:
        assert (await docker_kit.output(name)).count("called by") == 1  # the platform, above


# All at once


def own_pid_namespace() -> str:
    """Return what names the processes that this one could see."""
    return os.readlink("/proc/self/ns/pid")


def reached_from_here(environment: Mapping[str, str]) -> Any:
    """Return what `reach.py` reaches outside of a container."""
    command = [sys.executable, str(ATTACKS / "reach.py")]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    return json.loads(done.stdout)


async def test_programs_that_evade_checks_reach_their_own_container_at_most(
    docker_kit: DockerKit, decoy: Path
) -> None:
    evasions, reach = "python-evasions.jsonl", "reach.py"
    with open_trap() as trap:
        ports = [(address, trap.port) for address in reachable_addresses()]
        wanted = {"file": str(decoy), "ports": ports, "pid_namespace": own_pid_namespace()}
        environment = {"WANTED": json.dumps(wanted)}
        addresses = [address for address, _ in ports]
        reached = await asyncio.to_thread(reached_from_here, environment)
        assert sorted(reached) == sorted(["file", *addresses, "processes"])
        assert len(trap.callers()) == len(ports)

        status = await docker_kit.ran(
            source("evasions"),
            files=tuple(PlacedFile(name, ATTACKS / name) for name in (evasions, reach)),
            environment=environment,
        )
        found = await told(docker_kit, status)
        assert trap.callers() == []

    assert len(found) == 45
    assert "GOT" not in found.pop("vsock")["output"]  # a socket to the hypervisor
    assert [each for each, said in found.items() if "GOT" not in said["output"]] == []
    assert {each: said["reached"] for each, said in found.items() if said["reached"]} == {}
    assert SECRET not in json.dumps(found)
    assert docker_kit.processes_of(status.name) == []
