"""How a process's loops run and end."""

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from services.chassis import lifecycle
from services.chassis.errors import Unavailable
from services.chassis.lifecycle import (
    Readiness,
    Run,
    Stage,
    Supervisor,
    run_main,
    run_until_stopped,
)
from services.chassis.settings import ShutdownSettings

AT_ONCE = ShutdownSettings(drain_wait=timedelta(0), stage_timeout=timedelta(milliseconds=50))
PATIENT = ShutdownSettings(drain_wait=timedelta(0), stage_timeout=timedelta(seconds=10))


class Log:
    """What happened, in order; loops that write to it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def obedient(self, name: str) -> Run:
        async def run(stopping: asyncio.Event) -> None:
            await stopping.wait()
            self.lines.append(f"{name} asked")
            await asyncio.sleep(0)  # the next stage is not asked before this one has ended
            self.lines.append(f"{name} ended")

        return run

    def failing(self, name: str) -> Run:
        async def run(stopping: asyncio.Event) -> None:
            self.lines.append(f"{name} failed")
            raise RuntimeError(name)

        return run

    def deaf(self, name: str) -> Run:
        async def run(stopping: asyncio.Event) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                self.lines.append(f"{name} cancelled")

        return run


def supervising(*loops: tuple[str, Run, Stage]) -> Supervisor:
    supervisor = Supervisor()
    for name, run, stage in loops:
        supervisor.add(name, run, stage)
    return supervisor


async def stopped(supervisor: Supervisor, settings: ShutdownSettings = PATIENT) -> bool:
    stop = asyncio.Event()
    stop.set()
    return await supervisor.run(stop, Readiness(), settings)


async def test_stages_end_one_after_another() -> None:
    log = Log()
    supervisor = supervising(
        ("lease", log.obedient("lease"), Stage.LAST),
        ("relay", log.obedient("relay"), Stage.RELAY),
        ("runner", log.obedient("runner"), Stage.WORK),
        ("grpc", log.obedient("grpc"), Stage.INTAKE),
    )

    assert await stopped(supervisor)

    assert log.lines == [
        f"{name} {what}"
        for name in ("grpc", "runner", "relay", "lease")
        for what in ("asked", "ended")
    ]


async def test_a_loop_that_fails_ends_all_others_in_order_and_is_told() -> None:
    log = Log()
    supervisor = supervising(
        ("lease", log.obedient("lease"), Stage.LAST),
        ("grpc", log.obedient("grpc"), Stage.INTAKE),
        ("runner", log.failing("runner"), Stage.WORK),
    )

    assert not await supervisor.run(asyncio.Event(), Readiness(), PATIENT)

    assert log.lines == ["runner failed", "grpc asked", "grpc ended", "lease asked", "lease ended"]


async def test_a_loop_that_ends_unasked_is_a_failure() -> None:
    async def run(stopping: asyncio.Event) -> None:
        return

    supervisor = supervising(("short", run, Stage.WORK))

    assert not await supervisor.run(asyncio.Event(), Readiness(), PATIENT)


async def test_a_failure_while_leaving_is_told_and_holds_nobody_up() -> None:
    log = Log()

    async def run(stopping: asyncio.Event) -> None:
        await stopping.wait()
        raise RuntimeError("could not flush")

    supervisor = supervising(
        ("grpc", run, Stage.INTAKE), ("lease", log.obedient("lease"), Stage.LAST)
    )

    assert not await stopped(supervisor)
    assert log.lines == ["lease asked", "lease ended"]


async def test_a_loop_that_does_not_stop_is_cancelled_before_the_next_stage() -> None:
    log = Log()
    supervisor = supervising(
        ("runner", log.deaf("runner"), Stage.WORK),
        ("lease", log.obedient("lease"), Stage.LAST),
    )

    assert await stopped(supervisor, AT_ONCE)
    assert log.lines == ["runner cancelled", "lease asked", "lease ended"]


async def test_loops_end_with_a_supervisor_that_is_cancelled() -> None:
    log = Log()
    supervisor = supervising(("runner", log.deaf("runner"), Stage.WORK))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await supervisor.run(asyncio.Event(), Readiness(), PATIENT)

    assert log.lines == ["runner cancelled"]


async def test_a_leaving_process_is_not_ready_before_its_intake_ends() -> None:
    readiness, begun = Readiness(), asyncio.Event()
    seen: list[bool] = []

    async def run(stopping: asyncio.Event) -> None:
        seen.append(await readiness.is_ready())
        begun.set()
        await stopping.wait()
        seen.append(await readiness.is_ready())

    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        supervisor = supervising(("grpc", run, Stage.INTAKE))
        group.create_task(supervisor.run(stop, readiness, PATIENT))
        await begun.wait()
        stop.set()

    assert seen == [True, False]


async def test_readiness_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_CHECK_TIMEOUT_S", 0.01)

    async def there() -> None:
        pass

    def raising(error: Exception) -> Callable[[], Awaitable[None]]:
        async def check() -> None:
            raise error

        return check

    readiness = Readiness()
    readiness.add("database", there)
    assert (await readiness.report()).is_ready

    readiness.add("kafka", raising(Unavailable("kafka")))
    readiness.add("files", raising(OSError("no such folder")))
    readiness.add("silent", asyncio.Event().wait)
    report = await readiness.report()

    assert not report.is_ready
    assert report.checks == {
        "database": "ok",
        "kafka": "kafka is not available",
        "files": "OSError: no such folder",
        "silent": "no answer within 0.01 s",
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_with_code_0(number: signal.Signals) -> None:
    async def run(stopping: asyncio.Event) -> None:
        os.kill(os.getpid(), number)
        await stopping.wait()

    supervisor = supervising(("grpc", run, Stage.INTAKE))

    assert await run_until_stopped(supervisor, Readiness(), PATIENT) == 0


async def test_full_collections_of_garbage_are_rarer_while_a_process_runs() -> None:
    before, seen = gc.get_threshold(), []

    async def run(stopping: asyncio.Event) -> None:
        seen.append(gc.get_threshold())

    await run_until_stopped(supervising(("loop", run, Stage.WORK)), Readiness(), PATIENT)

    assert seen == [(*before[:2], 10 * before[2])]
    assert gc.get_threshold() == before


async def test_a_failed_loop_ends_the_process_with_code_1() -> None:
    supervisor = supervising(("grpc", Log().failing("grpc"), Stage.INTAKE))

    assert await run_until_stopped(supervisor, Readiness(), PATIENT) == 1


def test_the_main_coroutine_gives_the_exit_code() -> None:
    async def main() -> int:
        assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
        return 7

    assert run_main(main()) == 7


def test_an_interrupt_before_the_loops_run_is_an_ordinary_end() -> None:
    async def main() -> int:
        raise KeyboardInterrupt

    assert run_main(main()) == 130


async def test_advice_turns_no_requests_away() -> None:
    async def down() -> None:
        raise Unavailable("container runtime docker")

    readiness = Readiness()
    readiness.advise("container-runtime", down)

    report = await readiness.report()
    assert report.is_ready
    assert report.advisories == {"container-runtime": "container runtime docker is not available"}
