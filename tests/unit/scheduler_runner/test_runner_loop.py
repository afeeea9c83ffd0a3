"""When the runner's loop takes a step, and when it waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from services.chassis.db.lease import LeaseKeeper
from services.chassis.errors import Unavailable
from services.chassis.waking import Waking
from services.scheduler.domain.attempts.attempt import AttemptState
from services.scheduler.domain.attempts.runtime import ContainerPhase as P
from services.scheduler.domain.attempts.runtime import LeftFile
from services.scheduler.domain.attempts.work import JobWork
from services.scheduler.domain.identities import AttemptId, NodeId
from services.scheduler.domain.jobs.job import JobState, StopCause, StopRequest
from services.scheduler.domain.jobs.spec import JobOutput, JobTimeouts
from services.scheduler.domain.resources import Resources
from services.scheduler.entrypoints.loops.runner import RunnerIntervals, RunnerLoop
from services.scheduler.entrypoints.loops.runtime_watch import RuntimeWatch
from services.scheduler.use_cases.attempts.drive_attempt import AttemptMemory, DriveAttempt
from services.scheduler.use_cases.attempts.keep_node import KeepNode
from tests.support.eventually import seen
from tests.unit.scheduler.builders import ENDING
from tests.unit.scheduler_runner.bench import LIMITS, Bench
from tests.unit.scheduler_runner.builders import STOP, a_job, some_work

SOON = timedelta(milliseconds=5)
DOWN = Unavailable("container-engine")


class Drive:
    """Takes a bench's steps, or fails as it is told."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.failing: BaseException | None = None
        self.seen: list[AttemptMemory] = []
        self.pause: timedelta | None = None
        """How long to wait after each step that asks for a pause."""

    async def __call__(self, work: Any, memory: AttemptMemory) -> timedelta | None:
        self.seen.append(memory)
        if self.failing is not None:
            raise self.failing
        self._bench.memory = memory
        pause = await self._bench.drive(work)
        return self.pause if pause and self.pause else pause


@asynccontextmanager
async def running(bench: Bench, drive: Drive) -> AsyncIterator[RuntimeWatch]:
    """Let the loop of a node with one attempt run; a failed step is repeated after a minute."""
    async with looping(bench, drive) as loop:
        yield loop.watch


@asynccontextmanager
async def looping(bench: Bench, drive: Drive) -> AsyncIterator[RunnerLoop]:
    """Give the loop itself."""
    lease = SimpleNamespace(held=bench.node_lease.held)
    watch = RuntimeWatch(bench.runtime, ping_timeout=SOON)
    loop = RunnerLoop(
        KeepNode(
            bench.store.as_unit_of_work(),
            NodeId("node-1"),
            Resources(),
            "memory",
            allows_mixed_tenants=True,
        ),
        cast("DriveAttempt", drive),
        bench.clean_up,
        watch,
        cast("LeaseKeeper", lease),
        Waking(SOON),
        RunnerIntervals(
            heartbeat=SOON,
            clean_up=SOON,
            backoff_min=timedelta(minutes=1),
            backoff_max=timedelta(minutes=1),
        ),
    )
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(loop.run(stopping))
        yield loop
        stopping.set()


@pytest.fixture
def drive(bench: Bench) -> Drive:
    bench.store.works = [
        bench.store.given(some_work(AttemptState.CREATED), state=JobState.ADMITTED)
    ]
    return Drive(bench)


async def test_attempt_waits_while_the_runtime_is_down_and_starts_when_it_is_back(
    bench: Bench, drive: Drive
) -> None:
    bench.runtime.failing = DOWN
    async with running(bench, drive) as watch:
        await seen(lambda: len(bench.store.is_runtime_up) > 2, what="it is told often")
        assert drive.seen == []
        assert not any(bench.store.is_runtime_up)
        with pytest.raises(Unavailable, match="container runtime memory"):
            await watch.check()

        bench.runtime.failing = None
        await seen(lambda: "start" in bench.runtime.calls, what="it runs")
        await watch.check()
        await seen(lambda: bench.store.is_runtime_up[-1], what="the row says so")


async def test_node_is_tidied_by_whoever_has_been_given_it(bench: Bench, drive: Drive) -> None:
    async with running(bench, drive):
        await seen(lambda: "tidy" in bench.runtime.calls, what="it is tidied")


async def test_attempt_goes_on_without_back_off_when_the_runtime_is_back(
    bench: Bench, drive: Drive
) -> None:
    async with running(bench, drive) as watch:
        drive.failing = DOWN  # the step is what notices first
        await seen(lambda: bool(drive.seen), what="a step fails")
        bench.runtime.failing = DOWN
        await seen(lambda: not watch.is_up, what="the ping fails")

        bench.runtime.failing, drive.failing = None, None
        await seen(lambda: "start" in bench.runtime.calls, what="it starts")


async def test_attempt_loses_no_patience_while_the_runtime_is_down(
    bench: Bench, drive: Drive
) -> None:
    bench.artifacts.is_up = False
    async with running(bench, drive) as watch:
        await seen(lambda: bench.memory.hindered_since is not None, what="its start is hindered")
        bench.runtime.failing = DOWN
        await seen(lambda: not watch.is_up, what="the ping fails")
        bench.clock.advance(LIMITS.start_wait_max)

        bench.runtime.failing = None
        await seen(lambda: len(drive.seen) > 1, what="it goes on")
        assert bench.memory.hindered_since == bench.clock.monotonic()
    assert "entomb" not in bench.runtime.calls


async def test_runtime_that_does_not_answer_in_time_is_down(
    bench: Bench, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def frozen() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(bench.runtime, "ping", frozen)
    async with running(bench, drive):
        await seen(lambda: bool(bench.store.is_runtime_up), what="the row says so")

    assert not any(bench.store.is_runtime_up)


async def test_attempt_is_attended_on_when_a_call_was_cancelled_that_nobody_ended(
    bench: Bench, drive: Drive
) -> None:
    async with running(bench, drive):
        drive.failing = asyncio.CancelledError()  # as grpc.aio does when a file can't be read
        await seen(lambda: bool(drive.seen), what="a step is cancelled")
        drive.failing = None
        bench.runtime.failing = DOWN
        await seen(lambda: not bench.store.is_runtime_up[-1], what="it is down")
        bench.runtime.failing = None
        await seen(lambda: "start" in bench.runtime.calls, what="it starts")


def awaited_exit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, list[str]]:
    """Let a test say when what is awaited exits; return that, and the names that were awaited."""
    exited, waits = asyncio.Event(), list[str]()

    async def wait_exit(name: str) -> None:
        waits.append(name)
        await exited.wait()

    monkeypatch.setattr(bench.runtime, "wait_exit", wait_exit)
    return exited, waits


async def test_exit_is_awaited_once_while_no_step_can_be_taken(
    bench: Bench, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    exited, waits = awaited_exit(bench, monkeypatch)

    async def unanswered() -> None:
        raise DOWN

    async with running(bench, drive) as watch:
        await seen(lambda: bool(waits), what="its exit is awaited")
        monkeypatch.setattr(bench.runtime, "ping", unanswered)
        await seen(lambda: not watch.is_up, what="the ping fails")
        told = len(bench.store.is_runtime_up)
        exited.set()
        await seen(lambda: len(bench.store.is_runtime_up) > told + 3, what="time passes")

    assert len(waits) == 1


async def test_an_end_is_noticed_at_once_however_seldom_the_attempt_is_looked_at(
    bench: Bench, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    exited, waits = awaited_exit(bench, monkeypatch)
    work = some_work(owner=a_job(task_count=2))
    work = replace(work, attempt=replace(work.attempt, task=1, task_count=2))
    bench.store.works = [bench.store.given(work)]
    bench.runtime.is_(P.RUNNING)
    drive.pause = timedelta(hours=1)
    async with running(bench, drive):
        await seen(lambda: bool(waits), what="its exit is awaited")
        bench.runtime.exited()
        exited.set()
        await seen(lambda: "EXITED" in bench.store.fact_names, what="its end is recorded")


async def test_lost_node_takes_work_again_once_nothing_of_ended_attempts_is_left(
    bench: Bench, drive: Drive
) -> None:
    ended = bench.store.given(some_work()).attempt
    bench.store.rows[ended.id], _ = ended.lost(ENDING, at=bench.clock.now())
    bench.store.works, bench.store.lost_at = [], bench.clock.now()
    bench.runtime.is_(P.RUNNING)
    bench.runtime.failing = DOWN
    async with running(bench, drive):
        await seen(lambda: len(bench.store.is_runtime_up) > 2, what="it is told often")
        assert bench.store.lost_at is not None

        bench.runtime.failing = None
        await seen(lambda: bench.store.lost_at is None, what="the node is back")
        assert bench.runtime.containers[ended.container_name].phase is P.EXITED


async def test_lost_node_stays_lost_while_something_can_not_be_stopped(
    bench: Bench, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = bench.store.given(some_work()).attempt
    bench.store.rows[ended.id], _ = ended.lost(ENDING, at=bench.clock.now())
    bench.store.works, bench.store.lost_at = [], bench.clock.now()
    bench.runtime.is_(P.RUNNING)
    tries = list[str]()

    async def refuse(name: str, *, grace: timedelta) -> None:
        tries.append(name)
        raise DOWN

    with monkeypatch.context() as unstoppable:
        unstoppable.setattr(bench.runtime, "stop", refuse)
        async with running(bench, drive):
            await seen(lambda: len(tries) > 1, what="it is tried again")
            assert bench.store.lost_at is not None


async def test_who_stands_by_tells_whether_its_runtime_answers(bench: Bench, drive: Drive) -> None:
    bench.node_lease.held = None
    bench.runtime.failing = DOWN
    async with running(bench, drive) as watch:
        await seen(lambda: not watch.is_up, what="the ping fails")
        bench.runtime.failing = None
        await seen(lambda: watch.is_up, what="it is back")
    assert drive.seen == []


async def test_what_is_offered_runs_before_it_is_read(
    bench: Bench, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    [work], bench.store.works = bench.store.works, []
    async with looping(bench, drive) as loop:
        await seen(lambda: bench.store.looks > 0, what="the node is taken over")

        async def unread() -> NoReturn:
            raise Unavailable("database")

        monkeypatch.setattr(KeepNode, "open_attempts", lambda _: unread())
        elsewhere = replace(work.attempt, id=AttemptId("att_2"), node_id=NodeId("node-2"))
        loop.offer([replace(work, attempt=elsewhere), work])
        await seen(lambda: "start" in bench.runtime.calls, what="it runs")
    assert bench.runtime.calls.count("create") == 1


async def test_what_is_offered_to_who_stands_by_is_passed_over(bench: Bench, drive: Drive) -> None:
    [work] = bench.store.works
    bench.node_lease.held = None
    async with looping(bench, drive) as loop:
        loop.offer([work])
        assert loop._offered == []


STOPS_FOR_NOW = replace(STOP, cause=StopCause.DRAINED)


@pytest.mark.parametrize("change", [{"stop": STOP}, {"stop": STOPS_FOR_NOW}, {"is_current": False}])
async def test_attempt_that_is_to_end_does_not_wait_for_the_files_that_it_fetches(
    bench: Bench, drive: Drive, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    asked = list[object]()

    async def endless(spec: object) -> None:
        asked.append(spec)
        await asyncio.Event().wait()

    monkeypatch.setattr(bench.runtime, "create", endless)
    async with running(bench, drive):
        await seen(lambda: bool(asked), what="its files are fetched")
        bench.store.works = [replace(each, **change) for each in bench.store.works]
        await seen(lambda: "entomb" in bench.runtime.calls, what="it is given up")
        await seen(lambda: bench.store.used["node-1"] == 0, what="its capacity is free")

    assert len(asked) == 1


@pytest.mark.parametrize(
    ("stop", "end"), [(STOP, JobState.CANCELLED), (STOPS_FOR_NOW, JobState.QUEUED)]
)
async def test_job_that_is_to_end_does_not_wait_for_the_outputs_that_it_stores(
    bench: Bench,
    drive: Drive,
    monkeypatch: pytest.MonkeyPatch,
    stop: StopRequest,
    end: JobState,
) -> None:
    uploads = list[object]()

    async def endless(*_: object, **__: object) -> None:
        uploads.append(None)
        await asyncio.Event().wait()

    work = bench.store.given(some_work(owner=a_job(outputs=(JobOutput("m", "m"),))))
    bench.store.works = [work]
    bench.runtime.outputs = {"m": [LeftFile("m", PurePath("/out/m"))]}
    bench.runtime.exited()
    with monkeypatch.context() as slow:
        slow.setattr(bench.artifacts, "put", endless)
        async with running(bench, drive):
            await seen(lambda: bool(uploads), what="its outputs are stored")
            job = bench.store.rows["job_1"]
            bench.store.rows["job_1"] = replace(job, state=JobState.STOPPING, stop=stop)
            bench.store.works = [replace(work, stop=stop)]
            await seen(lambda: bench.store.rows["job_1"].state is end, what="it ends")

    assert len(uploads) == 1


async def test_start_is_given_up_by_the_age_that_the_last_look_has_read(
    bench: Bench, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, gate = list[object](), asyncio.Event()
    create = bench.runtime.create

    async def slow(spec: Any) -> None:
        asked.append(spec)
        await gate.wait()
        await create(spec)

    monkeypatch.setattr(bench.runtime, "create", slow)
    start_max = timedelta(minutes=1)
    owner = a_job(timeouts=JobTimeouts(start=start_max))
    work = bench.store.given(some_work(AttemptState.CREATED, owner=owner), state=JobState.ADMITTED)
    bench.store.works = [work]
    async with running(bench, drive):
        await seen(lambda: bool(asked), what="it is created")
        told = len(bench.store.is_runtime_up)
        bench.store.works = [replace(work, placed_for=start_max)]
        await seen(lambda: len(bench.store.is_runtime_up) > told + 3, what="time passes")
        gate.set()
        await seen(lambda: "entomb" in bench.runtime.calls, what="it is given up")

    assert "start" not in bench.runtime.calls


async def test_what_no_stop_has_asked_for_is_not_cut_short(
    bench: Bench, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, gate = list[object](), asyncio.Event()
    create = bench.runtime.create

    async def slow(spec: Any) -> None:
        asked.append(spec)
        await gate.wait()
        await create(spec)

    monkeypatch.setattr(bench.runtime, "create", slow)
    async with running(bench, drive):
        await seen(lambda: bool(asked), what="its files are fetched")
        [work] = bench.store.works
        assert isinstance(work.owner, JobWork)
        starting = replace(work, owner=replace(work.owner, state=JobState.STARTING))
        told = len(bench.store.is_runtime_up)
        bench.store.works = [starting]
        await seen(lambda: len(bench.store.is_runtime_up) > told + 3, what="time passes")
        gate.set()
        await seen(lambda: "start" in bench.runtime.calls, what="it starts")

    assert len(asked) == 1
