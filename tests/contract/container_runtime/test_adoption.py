"""A runner that comes back finds everything as it is, whatever died meanwhile."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

from services.scheduler.domain.attempts.runtime import ContainerPhase
from tests.contract.container_runtime.kit import NO_GRACE, Kit, is_running

TELLS_PARENT = "import os, time; print(f'{os.getpid()} {os.getppid()}.'); time.sleep(60)"


async def _program_and_parent(kit: Kit, name: str) -> tuple[int, int]:
    await kit.said(name, ".\n")
    program, parent = kit.output(name).partition(".")[0].split()
    return int(program), int(parent)


async def test_running_container_is_found_and_waited_for_after_a_restart(kit: Kit) -> None:
    name = await kit.started("import sys; sys.stdin.read(); import time; time.sleep(0.3)")
    kit.restart_runner()

    assert (await kit.runtime.inspect(name)).phase is ContainerPhase.RUNNING
    status = await kit.runtime.wait_exit(name)
    assert status.exit is not None
    assert status.exit.code == 0


async def test_exit_is_read_after_a_restart_when_nobody_watched_it(kit: Kit) -> None:
    name = await kit.started("raise SystemExit(5)")
    await kit.runtime.wait_exit(name)
    kit.restart_runner()

    status = await kit.runtime.wait_exit(name)
    assert status.exit is not None
    assert status.exit.code == 5


async def test_stop_works_after_a_restart(kit: Kit) -> None:
    name = await kit.started(TELLS_PARENT)
    kit.restart_runner()

    status = await kit.runtime.stop(name, grace=NO_GRACE)
    assert status.phase is ContainerPhase.EXITED


async def test_container_is_lost_and_its_tree_killed_when_its_keeper_dies(kit: Kit) -> None:
    """Only runtimes whose containers have a process of their own as keeper can lose it."""
    name = await kit.started(
        "import os, time\nif os.fork() == 0: os.setsid(); time.sleep(60)\n" + TELLS_PARENT,
    )
    program, keeper = await _program_and_parent(kit, name)
    tree = _tree_of(kit.root / name)
    assert program in tree
    assert len(tree - {keeper}) == 2

    waiting = asyncio.gather(kit.runtime.wait_exit(name))
    os.kill(keeper, signal.SIGKILL)
    (status,) = await waiting

    assert status.phase is ContainerPhase.LOST
    assert status.exit is None
    assert not any(is_running(pid) for pid in tree)
    kit.restart_runner()
    assert (await kit.runtime.inspect(name)).phase is ContainerPhase.LOST
    await kit.runtime.remove(name)


async def test_loss_is_seen_when_the_keeper_died_while_no_runner_was_there(kit: Kit) -> None:
    name = await kit.started(TELLS_PARENT)
    program, keeper = await _program_and_parent(kit, name)
    os.kill(keeper, signal.SIGKILL)
    kit.restart_runner()

    assert (await kit.runtime.wait_exit(name)).phase is ContainerPhase.LOST
    assert not is_running(program)


async def test_tree_is_killed_when_the_container_s_folder_was_deleted(kit: Kit) -> None:
    name = await kit.started(TELLS_PARENT)
    program, keeper = await _program_and_parent(kit, name)
    shutil.rmtree(kit.root / name)

    assert (await kit.runtime.wait_exit(name)).phase is ContainerPhase.ABSENT
    assert not is_running(program)
    assert not is_running(keeper)


def _tree_of(folder: Path) -> set[int]:
    mark = f"MODELYARD_CONTAINER={folder}".encode()
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.add(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found
