"""The Docker runtime alone: an engine that is away, and calls that come late."""

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from services.chassis.clock import SystemClock
from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.runtime_docker.engine import Engine, EngineFailed
from services.scheduler.adapters.runtime_docker.runtime import DockerRuntime
from services.scheduler.domain.attempts.runtime import ContainerPhase, ContainerStatus
from tests.contract.container_runtime.kit import (
    ABSENT,
    IMAGE,
    NO_GRACE,
    WAITS,
    DockerKit,
    command_line,
    parent_of,
)
from tests.support.eventually import eventually

COUNTS_UNTIL_TOLD = """
import os, time
number = 0
while not os.path.exists('end'):
    print(number)
    number += 1
    time.sleep(0.02)
print('last of', number)
raise SystemExit(7)
"""

ENDS_WHEN_TOLD = """
import os, time
print('up')
while not os.path.exists('end'):
    time.sleep(0.02)
print('last words')
raise SystemExit(5)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_container_outlives_its_engine_and_its_exit_is_read_afterwards(
    docker_kit: DockerKit, how: signal.Signals
) -> None:
    name = await docker_kit.started(COUNTS_UNTIL_TOLD)
    await docker_kit.said(name, "5\n")
    waiting = asyncio.gather(docker_kit.runtime.wait_exit(name), return_exceptions=True)

    with docker_kit.engine.stopped(how):
        await eventually(docker_kit.is_gone, what="the engine is gone")
        with pytest.raises(Unavailable):
            await docker_kit.runtime.inspect(name)
    await docker_kit.answers()
    await docker_kit.tell_to_end(name)
    status = await docker_kit.runtime.wait_exit(name)
    await waiting

    assert status.exit is not None
    assert (status.exit.code, status.exit.cause, status.exit.is_end_seen) == (7, None, True)
    *numbers, last = (await docker_kit.output(name)).splitlines()
    assert last.startswith("last of")
    if how is signal.SIGTERM:  # killed, it takes along what it had read and not yet written
        assert last == f"last of {len(numbers)}"
        assert numbers == [str(number) for number in range(len(numbers))]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_end_is_told_as_unseen_when_the_program_ended_while_the_engine_was_away(
    docker_kit: DockerKit, how: signal.Signals
) -> None:
    name = await docker_kit.started(ENDS_WHEN_TOLD)
    await docker_kit.said(name, "up")
    with docker_kit.engine.stopped(how):
        await docker_kit.tell_to_end(name)
    await docker_kit.answers()

    status = await docker_kit.runtime.wait_exit(name)
    docker_kit.restart_runner()

    assert status.exit is not None
    assert (status.exit.code, status.exit.is_end_seen) == (5, False)
    assert "last words" not in await docker_kit.output(name)
    assert await docker_kit.runtime.inspect(name) == status


async def test_container_is_lost_when_nobody_is_left_who_knows_its_exit_code(
    docker_kit: DockerKit,
) -> None:
    """As after a loss of power: the engine comes back and finds neither program nor keeper."""
    name = await docker_kit.started(WAITS)
    await docker_kit.said(name, "up")
    program = int((await docker_kit.client.inspect(name))["State"]["Pid"])
    keeper = parent_of(program)
    assert "containerd-shim" in command_line(keeper)
    with docker_kit.engine.stopped(signal.SIGKILL):
        for process in (keeper, program):
            os.kill(process, signal.SIGKILL)
        await eventually(docker_kit.has_no_process(name), what="the program has ended")
    await docker_kit.answers()

    status = await docker_kit.runtime.wait_exit(name)

    assert (status.phase, status.exit) == (ContainerPhase.LOST, None)


async def test_end_is_seen_and_output_whole_when_the_engine_was_frozen_meanwhile(
    docker_kit: DockerKit,
) -> None:
    name = await docker_kit.started(ENDS_WHEN_TOLD)
    await docker_kit.said(name, "up")
    with docker_kit.engine.frozen():
        await docker_kit.tell_to_end(name)

    status = await docker_kit.runtime.wait_exit(name)

    assert status.exit is not None
    assert (status.exit.code, status.exit.is_end_seen) == (5, True)
    assert "last words" in await docker_kit.output(name)
    container_id, now = await docker_kit.container_id(name), SystemClock().now()
    assert await docker_kit.client.saw_end(container_id, until=now)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_end_stays_seen_when_engine_and_runner_restart_after_it(
    docker_kit: DockerKit, how: signal.Signals
) -> None:
    before = await docker_kit.ran("print('up')")
    with docker_kit.engine.stopped(how):
        docker_kit.restart_runner()
    await docker_kit.answers()

    assert await docker_kit.runtime.inspect(before.name) == before
    assert before.exit is not None
    assert before.exit.is_end_seen


async def test_end_is_seen_by_whoever_waited_when_the_engine_was_away_and_is_back(
    docker_kit: DockerKit,
) -> None:
    """No event tells of what happened while there was no engine: it is looked for."""
    name = await docker_kit.started(ENDS_WHEN_TOLD)
    await docker_kit.said(name, "up")

    async def outlasting() -> object:
        while True:
            try:
                return await docker_kit.runtime.wait_exit(name)
            except Unavailable:
                await docker_kit.answers()

    waiting = asyncio.gather(outlasting())
    with docker_kit.engine.stopped():
        await docker_kit.tell_to_end(name)
    (status,) = await waiting

    assert status == await docker_kit.runtime.inspect(name)


async def test_frozen_engine_is_noticed_and_everything_goes_on_when_it_thaws(
    docker_kit: DockerKit,
) -> None:
    name = await docker_kit.started(WAITS)
    with docker_kit.engine.frozen(), pytest.raises(Unavailable):
        await docker_kit.runtime.ping()
    await docker_kit.answers()

    status = await docker_kit.runtime.stop(name, grace=NO_GRACE)

    assert status.phase is ContainerPhase.EXITED


def asked_to_start_long_ago(kit: DockerKit, name: str, container_id: str) -> None:
    """Do as somebody who made his mark and was then paused."""
    mark = kit.root / name / f"start-{container_id}"
    mark.touch()
    long_ago = mark.stat().st_mtime - 3600
    os.utime(mark, (long_ago, long_ago))


@pytest.mark.parametrize("act", [DockerRuntime.start, DockerRuntime.entomb])
async def test_container_is_lost_when_it_ran_between_the_last_look_and_its_deletion(
    docker_kit: DockerKit,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[DockerRuntime, str], Awaitable[ContainerStatus]],
) -> None:
    spec = docker_kit.spec("pass")
    await docker_kit.runtime.create(spec)
    container_id = await docker_kit.container_id(spec.name)
    asked_to_start_long_ago(docker_kit, spec.name, container_id)
    docker_kit.restart_runner()
    really_delete = Engine.delete

    async def has_ended() -> bool:
        container = await docker_kit.client.inspect(container_id)
        return bool(container["State"]["Status"] == "exited")

    async def too_late(engine: Engine, deleted_id: str) -> None:
        await docker_kit.client.start(container_id)
        await eventually(has_ended, what="it has run")
        await really_delete(engine, deleted_id)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "delete", too_late)
        assert (await act(docker_kit.runtime, spec.name)).phase is ContainerPhase.LOST

    docker_kit.restart_runner()
    assert (await docker_kit.runtime.inspect(spec.name)).phase is ContainerPhase.LOST
    assert container_id in (await docker_kit.runtime.log_location(spec.name)).path
    with pytest.raises(FailedPrecondition):
        await docker_kit.runtime.create(spec)
    await docker_kit.runtime.remove(spec.name)
    assert (await docker_kit.runtime.inspect(spec.name)).phase is ContainerPhase.ABSENT


async def test_what_became_of_a_container_is_found_out_by_the_next_one_who_looks(
    docker_kit: DockerKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = docker_kit.spec("pass")
    await docker_kit.runtime.create(spec)
    container_id = await docker_kit.container_id(spec.name)
    asked_to_start_long_ago(docker_kit, spec.name, container_id)
    really_delete = Engine.delete

    async def too_late(engine: Engine, deleted_id: str) -> None:
        await docker_kit.client.start(container_id)
        await docker_kit.runtime.wait_exit(spec.name)
        await really_delete(engine, deleted_id)
        raise EngineFailed("its answer was lost")

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "delete", too_late)
        with pytest.raises(EngineFailed):
            await docker_kit.runtime.entomb(spec.name)

    docker_kit.restart_runner()
    assert (await docker_kit.runtime.inspect(spec.name)).phase is ContainerPhase.LOST


async def test_container_is_made_anew_when_whoever_asked_for_its_start_died_before(
    docker_kit: DockerKit,
) -> None:
    spec = docker_kit.spec("print('ran')")
    await docker_kit.runtime.create(spec)
    first = await docker_kit.container_id(spec.name)
    asked_to_start_long_ago(docker_kit, spec.name, first)

    with pytest.raises(Unavailable):
        await docker_kit.runtime.start(spec.name)
    assert (await docker_kit.runtime.inspect(spec.name)).phase is ContainerPhase.ABSENT
    await docker_kit.runtime.create(spec)
    await docker_kit.runtime.start(spec.name)
    await docker_kit.runtime.wait_exit(spec.name)

    assert await docker_kit.output(spec.name) == "ran\n"
    with pytest.raises(NotFound):  # what the first one may still send
        await docker_kit.client.start(first)


async def test_start_is_waited_for_when_somebody_else_just_asked_for_it(
    docker_kit: DockerKit,
) -> None:
    spec = docker_kit.spec(WAITS)
    await docker_kit.runtime.create(spec)
    container_id = await docker_kit.container_id(spec.name)
    (docker_kit.root / spec.name / f"start-{container_id}").touch()

    waiting = asyncio.gather(docker_kit.runtime.start(spec.name))
    await docker_kit.client.start(container_id)
    (status,) = await waiting

    assert status.phase is ContainerPhase.RUNNING


async def test_container_is_made_anew_when_its_network_was_deleted_before_its_start(
    docker_kit: DockerKit,
) -> None:
    spec = docker_kit.spec("print('ran')", tenant=TenantId("acme"))
    await docker_kit.runtime.create(spec)
    (network,) = await docker_kit.networks(TenantId("acme"))
    await docker_kit.client.delete_network(network)

    with pytest.raises(Unavailable):
        await docker_kit.runtime.start(spec.name)
    await docker_kit.runtime.create(spec)
    await docker_kit.runtime.start(spec.name)

    assert (await docker_kit.runtime.wait_exit(spec.name)).phase is ContainerPhase.EXITED


async def test_first_containers_of_a_tenant_are_made_side_by_side_by_two_runners(
    docker_kit: DockerKit,
) -> None:
    """As when a node is taken over: each of them makes the network that neither has seen yet."""
    tenant = TenantId("acme")
    specs = [docker_kit.spec("print('ran')", tenant=tenant) for _ in range(8)]
    runners = (docker_kit.runtime, docker_kit.open_runtime())

    await asyncio.gather(
        *(runners[number % 2].create(spec) for number, spec in enumerate(specs)),
    )
    for spec in specs:
        await docker_kit.runtime.start(spec.name)
        assert (await docker_kit.runtime.wait_exit(spec.name)).phase is ContainerPhase.EXITED
        await docker_kit.runtime.remove(spec.name)
    await docker_kit.runtime.delete_unused_networks(unused_min=timedelta(0))

    assert await docker_kit.networks(tenant) == []


async def test_network_goes_with_the_tenants_last_container(docker_kit: DockerKit) -> None:
    name = await docker_kit.started(WAITS, tenant=TenantId("acme"))
    await docker_kit.runtime.delete_unused_networks(unused_min=timedelta(0))
    assert len(await docker_kit.networks(TenantId("acme"))) == 1

    await docker_kit.runtime.stop(name, grace=NO_GRACE)
    await docker_kit.runtime.remove(name)
    await docker_kit.runtime.delete_unused_networks(unused_min=timedelta(0))

    assert await docker_kit.networks(TenantId("acme")) == []


async def test_container_of_another_scope_is_nothing_to_us(
    docker_kit: DockerKit, other_docker_kit: DockerKit
) -> None:
    name = await other_docker_kit.started(WAITS)

    assert (await docker_kit.runtime.inspect(name)).phase is ContainerPhase.ABSENT
    assert await docker_kit.runtime.list({}) == []
    with pytest.raises(FailedPrecondition):
        await docker_kit.runtime.create(docker_kit.spec("pass", name=name))
    await docker_kit.runtime.remove(name)
    assert (await other_docker_kit.runtime.inspect(name)).phase is ContainerPhase.RUNNING


async def test_create_may_be_tried_again_while_its_image_s_registry_can_not_be_asked(
    docker_kit: DockerKit,
) -> None:
    with pytest.raises(Unavailable):
        await docker_kit.runtime.create(docker_kit.spec("pass", image=ABSENT))


async def test_folder_without_container_is_listed_so_that_it_can_be_removed(
    docker_kit: DockerKit,
) -> None:
    spec = docker_kit.spec("pass")
    await docker_kit.runtime.create(spec)
    await docker_kit.client.delete(await docker_kit.container_id(spec.name))

    (status,) = await docker_kit.runtime.list({})
    assert (status.name, status.phase) == (spec.name, ContainerPhase.ABSENT)
    await docker_kit.runtime.remove(spec.name)

    assert await docker_kit.runtime.list({}) == []


async def test_create_is_refused_when_the_image_declares_a_volume(docker_kit: DockerKit) -> None:
    spec = docker_kit.spec("pass", image=await docker_kit.image_with_volume())

    with pytest.raises(InvalidArgument, match="VOLUME"):
        await docker_kit.runtime.create(spec)
    assert (await docker_kit.runtime.inspect(spec.name)).phase is ContainerPhase.ABSENT


async def test_container_is_made_of_the_image_that_was_looked_at(docker_kit: DockerKit) -> None:
    """A name may move on to an image with a volume after that."""
    spec = docker_kit.spec("pass")

    await docker_kit.runtime.create(spec)

    image = await docker_kit.client.image(docker_kit.engine.images[IMAGE])
    assert (await docker_kit.client.inspect(spec.name))["Config"]["Image"] == image["Id"]


async def test_container_is_stopped_though_its_folder_is_gone(docker_kit: DockerKit) -> None:
    name = await docker_kit.started(WAITS)
    shutil.rmtree(docker_kit.root / name)

    assert (await docker_kit.runtime.stop(name, grace=NO_GRACE)).phase is ContainerPhase.EXITED
