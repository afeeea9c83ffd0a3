"""One name, one container, at most one run."""

import asyncio
import os
import signal

import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.runtime import Capability, ContainerPhase
from tests.contract.container_runtime.kit import NO_GRACE, WAITS, Kit


async def test_container_reports_exit_code_times_and_use_when_its_program_ends(kit: Kit) -> None:
    status = await kit.ran("raise SystemExit(7)")

    assert status.phase is ContainerPhase.EXITED
    assert status.exit is not None
    assert (status.exit.code, status.exit.signal, status.exit.cause) == (7, None, None)
    assert status.started_at == status.exit.started_at <= status.exit.ended_at
    if kit.offers(Capability.USAGE_REPORTED):
        assert (status.exit.memory_bytes_peak or 0) > 1 << 20
        assert status.exit.cpu


async def test_exit_code_is_no_signal_when_there_is_none_of_that_number(kit: Kit) -> None:
    status = await kit.ran("raise SystemExit(255)")

    assert status.exit is not None
    assert (status.exit.code, status.exit.signal, status.exit.cause) == (255, None, None)


async def test_container_reports_signal_when_one_ended_it(kit: Kit) -> None:
    status = await kit.ran("import os; os.kill(os.getpid(), 9)")

    assert status.exit is not None
    assert (status.exit.code, status.exit.signal, status.exit.cause) == (137, signal.SIGKILL, None)


async def test_create_changes_nothing_when_the_name_is_taken(kit: Kit) -> None:
    spec = kit.spec("print('first')")
    await kit.runtime.create(spec)
    await kit.runtime.create(kit.spec("print('second')", name=spec.name))

    await kit.runtime.start(spec.name)
    await kit.runtime.wait_exit(spec.name)
    await kit.runtime.create(spec)

    assert (await kit.runtime.inspect(spec.name)).phase is ContainerPhase.EXITED
    assert await kit.output(spec.name) == "first\n"


async def test_create_is_refused_when_the_image_is_not_known(kit: Kit) -> None:
    with pytest.raises(InvalidArgument):
        await kit.runtime.create(kit.spec("pass", image="nobody/knows"))


async def test_start_runs_the_program_once_when_it_is_repeated(kit: Kit) -> None:
    name = await kit.started("print('ran')")
    await kit.runtime.start(name)
    await kit.runtime.wait_exit(name)
    again = await kit.runtime.start(name)

    assert again.phase is ContainerPhase.EXITED
    assert await kit.output(name) == "ran\n"


async def test_start_runs_the_program_once_when_two_runners_race(kit: Kit) -> None:
    spec = kit.spec("print('ran')")
    await kit.runtime.create(spec)
    other = kit.open_runtime()

    await asyncio.gather(*(runtime.start(spec.name) for runtime in (kit.runtime, other) * 3))
    await kit.runtime.wait_exit(spec.name)

    assert await kit.output(spec.name) == "ran\n"


async def test_start_is_not_found_when_nothing_was_created(kit: Kit) -> None:
    with pytest.raises(NotFound):
        await kit.runtime.start("never-made")


async def test_exit_code_is_127_when_the_program_does_not_exist(kit: Kit) -> None:
    spec = kit.spec("", command=("no-such-program",))
    await kit.runtime.create(spec)
    await kit.runtime.start(spec.name)
    status = await kit.runtime.wait_exit(spec.name)

    assert status.exit is not None
    assert status.exit.code == 127
    assert "no-such-program" in await kit.output(spec.name, "stderr")


async def test_tombstone_refuses_a_late_create_and_is_never_started(kit: Kit) -> None:
    spec = kit.spec("print('ran')")

    assert (await kit.runtime.entomb(spec.name)).phase is ContainerPhase.TOMBSTONE
    with pytest.raises(FailedPrecondition):
        await kit.runtime.create(spec)
    assert (await kit.runtime.start(spec.name)).phase is ContainerPhase.TOMBSTONE
    assert (await kit.runtime.wait_exit(spec.name)).phase is ContainerPhase.TOMBSTONE


async def test_entomb_prevents_the_start_when_the_container_is_created(kit: Kit) -> None:
    spec = kit.spec("print('ran')")
    await kit.runtime.create(spec)

    assert (await kit.runtime.entomb(spec.name)).phase is ContainerPhase.TOMBSTONE
    assert (await kit.runtime.entomb(spec.name)).phase is ContainerPhase.TOMBSTONE
    assert (await kit.runtime.start(spec.name)).phase is ContainerPhase.TOMBSTONE


async def test_entomb_tells_that_it_runs_when_it_was_started(kit: Kit) -> None:
    name = await kit.started(WAITS)

    assert (await kit.runtime.entomb(name)).phase is ContainerPhase.RUNNING


async def test_list_returns_those_that_bear_all_labels(kit: Kit) -> None:
    for number, color in enumerate(("red", "red", "blue")):
        await kit.runtime.create(kit.spec("pass", labels={"color": color, "number": str(number)}))

    red = await kit.runtime.list({"color": "red"})

    assert sorted(status.labels["number"] for status in red) == ["0", "1"]
    assert await kit.runtime.list({"color": "red", "number": "2"}) == []


async def test_remove_is_refused_while_it_runs_and_frees_the_name_afterwards(kit: Kit) -> None:
    name = await kit.started(WAITS)
    with pytest.raises(FailedPrecondition):
        await kit.runtime.remove(name)

    await kit.runtime.stop(name, grace=NO_GRACE)
    await kit.runtime.remove(name)
    await kit.runtime.remove(name)

    assert (await kit.runtime.inspect(name)).phase is ContainerPhase.ABSENT
    assert await kit.runtime.list({}) == []


async def test_no_folder_is_left_of_what_was_given_up_and_removed(kit: Kit) -> None:
    never_made, made = kit.spec("pass"), kit.spec("pass")
    await kit.runtime.create(made)
    for spec in (never_made, made):
        await kit.runtime.entomb(spec.name)
        await kit.runtime.remove(spec.name)
        await kit.runtime.remove(spec.name)

    assert list(kit.root.iterdir()) == []


async def test_what_was_not_started_before_a_boot_of_the_machine_is_lost(kit: Kit) -> None:
    """Its files may be torn, and whether its start was asked for is forgotten."""
    spec = kit.spec("print('ran')")
    await kit.runtime.create(spec)
    kit.as_laid_out_before_a_boot(spec.name)
    kit.restart_runner()

    assert (await kit.runtime.start(spec.name)).phase is ContainerPhase.LOST
    assert (await kit.runtime.wait_exit(spec.name)).phase is ContainerPhase.LOST
    assert (await kit.runtime.log_location(spec.name)).path
    await kit.runtime.remove(spec.name)
    assert list(kit.root.iterdir()) == []


async def test_what_is_being_made_survives_another_runner_until_that_is_given_the_node(
    kit: Kit,
) -> None:
    half_made = kit.root / ".half-made"
    half_made.mkdir()

    other = kit.open_runtime()
    assert half_made.exists()
    await other.tidy()

    assert not half_made.exists()


async def test_inspect_says_absent_when_it_was_removed_behind_our_back(kit: Kit) -> None:
    name = await kit.started("pass")
    await kit.runtime.wait_exit(name)
    await kit.open_runtime().remove(name)

    assert (await kit.runtime.wait_exit(name)).phase is ContainerPhase.ABSENT
    assert (await kit.runtime.stop(name, grace=NO_GRACE)).phase is ContainerPhase.ABSENT


async def test_create_is_refused_for_a_second_tenant_while_the_first_one_s_work_is_there(
    kit: Kit,
) -> None:
    """Where tenants may be mixed there is nothing to refuse; elsewhere it can only be passing."""
    if kit.offers(Capability.MIXED_TENANTS):
        pytest.skip("several tenants' work may be there")
    name = await kit.started(WAITS)
    foreign = kit.spec("pass", tenant=TenantId("other"))
    with pytest.raises(Unavailable, match="another tenant's work is still on it"):
        await kit.runtime.create(foreign)
    assert (await kit.runtime.inspect(foreign.name)).phase is ContainerPhase.ABSENT

    await kit.runtime.stop(name, grace=NO_GRACE)
    await kit.runtime.create(foreign)


async def test_program_gets_a_clean_environment(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_SECRET", "x")
    name = await kit.started(
        "import json, os; print(json.dumps(dict(os.environ)))", environment={"MINE": "yes"}
    )
    await kit.runtime.wait_exit(name)
    seen = await kit.output(name)

    assert '"MINE": "yes"' in seen
    assert "PLATFORM_SECRET" not in seen
    assert os.environ["HOME"] not in seen.replace(str(kit.root), "")
