"""What the process runtime does when something comes in between."""

import asyncio
import contextlib
import itertools
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.chassis.errors import Unavailable
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.runtime_files.leavings import last_lines
from services.scheduler.adapters.runtime_process import processes, runtime, shim
from services.scheduler.adapters.runtime_process.folder import lay_out
from services.scheduler.adapters.runtime_process.runtime import ProcessRuntime
from services.scheduler.domain.attempts.runtime import ContainerPhase, ContainerSpec

OPEN_FILES_MORE = 100


def _runtime(root: Path) -> ProcessRuntime:
    return ProcessRuntime(root, images={"base": Path(sys.executable).parent.parent})


def _spec(name: str, tenant: str = "one") -> ContainerSpec:
    command = ("python", "-c", "import time; time.sleep(60)")
    return ContainerSpec(name=name, tenant=TenantId(tenant), image="base", command=command)


async def test_second_tenant_is_refused_when_both_come_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_are_let_in = threading.Barrier(2)

    def slowly(*given: Any, **named: Any) -> bool:
        with contextlib.suppress(threading.BrokenBarrierError):
            both_are_let_in.wait(timeout=0.5)
        return lay_out(*given, **named)

    monkeypatch.setattr(runtime, "lay_out", slowly)
    node = _runtime(tmp_path)

    answers = await asyncio.gather(
        node.create(_spec("a", "one")), node.create(_spec("b", "other")), return_exceptions=True
    )

    assert [type(answer) for answer in answers] == [type(None), Unavailable]


async def test_stop_is_no_error_when_the_program_ends_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = _runtime(tmp_path)
    await node.create(_spec("a"))
    await node.start("a")
    really_send = signal.pidfd_send_signal

    def too_late(descriptor: int, _signal: int) -> None:
        really_send(descriptor, signal.SIGKILL)
        raise ProcessLookupError

    monkeypatch.setattr(signal, "pidfd_send_signal", too_late)

    status = await node.stop("a", grace=timedelta(seconds=1))

    assert status.phase is ContainerPhase.LOST


async def test_start_may_be_tried_again_when_its_shim_ended_before_it_had_claimed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full."""
    failing = tmp_path / "shim.py"
    failing.write_text(
        "import os; folder = os.read(3, 4096).decode()\n"
        "open(f'{folder}/shim.log', 'w').write('OSError: No space left on device')\n"
    )
    node = _runtime(tmp_path / "containers")
    await node.create(_spec("a"))
    with monkeypatch.context() as patched:
        patched.setattr(shim, "__file__", str(failing))
        with pytest.raises(Unavailable, match="No space left on device"):
            await node.start("a")

    assert (await node.start("a")).phase is ContainerPhase.RUNNING
    await node.stop("a", grace=timedelta(0))


@pytest.mark.parametrize("left", [b"", b"\0" * 90])
async def test_container_is_lost_when_power_went_before_its_start_was_on_disk(
    tmp_path: Path, left: bytes
) -> None:
    node = _runtime(tmp_path)
    await node.create(_spec("a"))
    of_an_earlier_boot = {"pid": 1, "start_ticks": 0, "boot_id": "another"}
    shim.take_claim({"shim": of_an_earlier_boot}, folder=str(tmp_path / "a"))
    (tmp_path / "a" / shim.STARTED).write_bytes(left)

    assert (await node.wait_exit("a")).phase is ContainerPhase.LOST
    assert (await node.start("a")).phase is ContainerPhase.LOST


@pytest.mark.parametrize("left", [b"", b"\0" * 90])
async def test_container_is_lost_when_power_tore_its_claim(tmp_path: Path, left: bytes) -> None:
    node = _runtime(tmp_path)
    await node.create(_spec("a"))
    (tmp_path / "a" / shim.CLAIM).write_bytes(left)

    assert (await node.start("a")).phase is ContainerPhase.LOST
    assert (await node.wait_exit("a")).phase is ContainerPhase.LOST


@pytest.mark.parametrize("left", [b"", b"\0" * 90])
async def test_container_is_lost_when_power_tore_its_description_before_its_start(
    tmp_path: Path, left: bytes
) -> None:
    node = _runtime(tmp_path)
    await node.create(_spec("a"))
    (tmp_path / "a" / shim.CONFIG).write_bytes(left)

    assert (await node.start("a")).phase is ContainerPhase.LOST
    assert (await node.wait_exit("a")).phase is ContainerPhase.LOST


async def test_what_was_started_is_lost_when_power_tore_its_description(tmp_path: Path) -> None:
    node = _runtime(tmp_path)
    await node.create(_spec("a"))
    of_an_earlier_boot = {"pid": 1, "start_ticks": 0, "boot_id": "another"}
    shim.take_claim({"shim": of_an_earlier_boot}, folder=str(tmp_path / "a"))
    (tmp_path / "a" / shim.CONFIG).write_bytes(b"")

    node = _runtime(tmp_path)

    assert (await node.start("a")).phase is ContainerPhase.LOST
    assert [each.name for each in await node.list({})] == ["a"]
    await node.remove("a")
    assert (await node.inspect("a")).phase is ContainerPhase.ABSENT


async def test_node_that_can_not_be_looked_at_now_may_be_looked_at_later(tmp_path: Path) -> None:
    node = _runtime(tmp_path)
    await node.create(_spec("a"))
    (tmp_path / "a" / shim.CLAIM).symlink_to(shim.CLAIM)  # leads in circles: the system refuses

    with pytest.raises(Unavailable):
        await node.inspect("a")
    with pytest.raises(Unavailable):
        await node.list({})
    with pytest.raises(Unavailable):
        await node.wait_exit("a")
    with pytest.raises(Unavailable):
        await node.stop("a", grace=timedelta(0))


@pytest.fixture
def few_open_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))  # other tests of this process hold some
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + OPEN_FILES_MORE, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_open_files")
def test_strays_are_looked_for_on_a_machine_of_many_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = itertools.islice(itertools.cycle(processes._pids()), 10 * OPEN_FILES_MORE)
    monkeypatch.setattr(processes, "_pids", list(pids).copy)

    processes.kill_strays(tmp_path / "container", None)


@pytest.mark.usefixtures("few_open_files")
async def test_outputs_may_be_read_later_when_the_node_can_not_read_them_now(
    tmp_path: Path,
) -> None:
    """The job has done its work: it is not to fail for that."""
    node = _runtime(tmp_path)
    for part in ("outputs/model", "checkpoint"):
        (tmp_path / "a" / part).mkdir(parents=True)

    with contextlib.ExitStack() as taken:
        with contextlib.suppress(OSError):
            while True:
                taken.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(Unavailable):
            await node.list_output("a", "model", files_max=1, bytes_max=1)
        with pytest.raises(Unavailable):
            await node.list_checkpoint("a", files_max=1, bytes_max=1)


def test_last_lines_pass_over_what_is_no_record(tmp_path: Path) -> None:
    log = tmp_path / "container.log"
    said = '{"log":"said\\n","stream":"stderr"}'
    log.write_text("\n".join([said, "[]", "{}", "torn {", "[" * 100_000]))

    assert last_lines(log, bytes_max=100) == "said\n"


def test_last_lines_are_empty_when_the_log_is_a_link(tmp_path: Path) -> None:
    log = tmp_path / "container.log"
    log.symlink_to(__file__)

    assert last_lines(log, bytes_max=100) == ""
