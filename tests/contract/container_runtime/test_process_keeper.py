"""The process runtime alone: the keeper that each of its containers has, and whom it mixes."""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

from services.chassis.tenancy import TenantId
from services.scheduler.adapters.runtime_process.runtime import ProcessRuntime
from services.scheduler.domain.attempts.runtime import Capability, ContainerPhase
from tests.contract.container_runtime.kit import IMAGE, WAITS, Kit, is_running

TELLS_PARENT = "import os, time; print(f'{os.getpid()} {os.getppid()}.'); time.sleep(60)"


async def _program_and_parent(process_kit: Kit, name: str) -> tuple[int, int]:
    await process_kit.said(name, ".\n")
    program, parent = (await process_kit.output(name)).partition(".")[0].split()
    return int(program), int(parent)


async def test_container_is_lost_and_its_tree_killed_when_its_keeper_dies(process_kit: Kit) -> None:
    name = await process_kit.started(
        "import os, time\nif os.fork() == 0: os.setsid(); time.sleep(60)\n" + TELLS_PARENT,
    )
    program, keeper = await _program_and_parent(process_kit, name)
    tree = _tree_of(process_kit.root / name)
    assert program in tree
    assert len(tree - {keeper}) == 2

    waiting = asyncio.gather(process_kit.runtime.wait_exit(name))
    os.kill(keeper, signal.SIGKILL)
    (status,) = await waiting

    assert status.phase is ContainerPhase.LOST
    assert status.exit is None
    assert not any(is_running(pid) for pid in tree)
    process_kit.restart_runner()
    assert (await process_kit.runtime.inspect(name)).phase is ContainerPhase.LOST
    await process_kit.runtime.remove(name)


async def test_loss_is_seen_when_the_keeper_died_while_no_runner_was_there(
    process_kit: Kit,
) -> None:
    name = await process_kit.started(TELLS_PARENT)
    program, keeper = await _program_and_parent(process_kit, name)
    os.kill(keeper, signal.SIGKILL)
    process_kit.restart_runner()

    assert (await process_kit.runtime.wait_exit(name)).phase is ContainerPhase.LOST
    assert not is_running(program)


async def test_tree_is_killed_when_the_container_s_folder_was_deleted(process_kit: Kit) -> None:
    name = await process_kit.started(TELLS_PARENT)
    program, keeper = await _program_and_parent(process_kit, name)
    shutil.rmtree(process_kit.root / name)

    assert (await process_kit.runtime.wait_exit(name)).phase is ContainerPhase.ABSENT
    assert not is_running(program)
    assert not is_running(keeper)


async def test_tenants_are_mixed_where_the_settings_let_them_be(process_kit: Kit) -> None:
    assert not process_kit.offers(Capability.MIXED_TENANTS)
    images = {IMAGE: Path(sys.executable).parent.parent}
    process_kit.runtime = ProcessRuntime(process_kit.root, images=images, allow_mixed_tenants=True)

    assert process_kit.offers(Capability.MIXED_TENANTS)
    await process_kit.started(WAITS)
    name = await process_kit.started(WAITS, tenant=TenantId("other"))
    assert (await process_kit.runtime.inspect(name)).phase is ContainerPhase.RUNNING


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


async def test_container_survives_the_signals_that_are_meant_for_the_runner(
    process_kit: Kit,
) -> None:
    name = await process_kit.started("import os, time; print(f'{os.getppid()}.'); time.sleep(60)")
    await process_kit.said(name, ".\n")
    parent = int((await process_kit.output(name)).partition(".")[0])

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(parent, number)
    await asyncio.sleep(0.1)  # tidy: allow sleep because nothing may happen

    assert (await process_kit.runtime.inspect(name)).phase is ContainerPhase.RUNNING
