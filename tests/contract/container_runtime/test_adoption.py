"""A runner that comes back finds everything as it is, whatever died meanwhile."""

from services.scheduler.domain.attempts.runtime import ContainerPhase
from tests.contract.container_runtime.kit import NO_GRACE, WAITS, Kit


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
    name = await kit.started(WAITS)
    kit.restart_runner()

    status = await kit.runtime.stop(name, grace=NO_GRACE)
    assert status.phase is ContainerPhase.EXITED
