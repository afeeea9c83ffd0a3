"""A shim that waits for its folder: whose it becomes, and when it is not needed."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.scheduler.adapters.runtime_process import shim
from services.scheduler.adapters.runtime_process.processes import readable
from services.scheduler.adapters.runtime_process.shims import Shims
from tests.support.eventually import eventually

ENDS_WITHIN_S = 20


@pytest.fixture
def shims() -> Iterator[Shims]:
    """Give shims of which one is always ahead."""
    shims = Shims({})
    with shims.one_ahead():
        yield shims


def waiting(shims: Shims) -> int:
    """Return the process that waits."""
    assert shims._ahead is not None
    return shims._ahead.pid


def container(folder: Path, *command: str) -> Path:
    (folder / shim.WORK).mkdir(parents=True)
    config = {"command": command, "environment": {}}
    (folder / shim.CONFIG).write_text(json.dumps(config))
    return folder


def shim_of(folder: Path) -> int:
    return int(json.loads((folder / shim.CLAIM).read_text())["shim"]["pid"])


def marks_of(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


async def ended(pid: int) -> None:
    """Wait for the end of a process of ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:  # its parent was quicker and has reaped it
        return
    try:
        async with asyncio.timeout(ENDS_WITHIN_S):
            await readable(descriptor)
    finally:
        os.close(descriptor)


async def test_shim_that_waits_gets_the_next_folder_and_another_one_waits(
    shims: Shims, tmp_path: Path
) -> None:
    first, second = container(tmp_path / "first", "true"), container(tmp_path / "second", "true")

    for folder in (first, second):
        ahead = waiting(shims)
        await shims.run(folder)
        assert shim_of(folder) == ahead

    assert waiting(shims) not in {shim_of(first), shim_of(second)}


async def test_shim_is_started_when_none_waits(tmp_path: Path) -> None:
    folder = container(tmp_path / "folder", "true")

    await Shims({}).run(folder)

    await ended(shim_of(folder))
    assert json.loads((folder / shim.EXIT).read_text())["code"] == 0


async def test_shim_that_was_killed_as_it_waited_is_not_needed(
    shims: Shims, tmp_path: Path
) -> None:
    killed = waiting(shims)
    os.kill(killed, signal.SIGKILL)
    await ended(killed)

    await shims.run(container(tmp_path / "folder", "true"))

    assert shim_of(tmp_path / "folder") != killed


async def test_shim_that_waits_ends_with_the_runtime(tmp_path: Path) -> None:
    shims = Shims({})
    with shims.one_ahead():
        pid = waiting(shims)

    await ended(pid)
    shims.reap()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_shim_bears_the_mark_of_the_container_that_it_got(
    shims: Shims, tmp_path: Path
) -> None:
    folder = container(tmp_path / "folder", "sleep", "60")
    await shims.run(folder)

    marks = marks_of(shim_of(folder))
    os.kill(shim_of(folder), signal.SIGKILL)  # its program goes with it

    assert f"{shim.CONTAINER_MARK}={folder}".encode() in marks


async def test_end_tells_that_the_program_was_killed_as_it_waited(
    shims: Shims, tmp_path: Path
) -> None:
    folder = container(tmp_path / "folder", "true")
    (program,) = await program_of(waiting(shims))
    os.kill(program, signal.SIGKILL)
    await ended(program)

    await shims.run(folder)

    await ended(shim_of(folder))
    assert json.loads((folder / shim.EXIT).read_text())["signal"] == signal.SIGKILL


async def test_program_that_waits_ends_with_its_shim(shims: Shims) -> None:
    ahead = waiting(shims)
    (program,) = await program_of(ahead)
    end = asyncio.ensure_future(ended(program))
    await asyncio.sleep(0)  # now it is watched, and its number stays its own

    os.kill(ahead, signal.SIGKILL)

    await end


async def program_of(ahead: int) -> list[int]:
    """Return the process that is to become the program, once it is there."""
    children = Path(f"/proc/{ahead}/task/{ahead}/children")

    async def found() -> list[int]:
        return [int(pid) for pid in children.read_text().split()]  # noqa: ASYNC240 of no disk

    return await eventually(found, what="the shim has forked")
