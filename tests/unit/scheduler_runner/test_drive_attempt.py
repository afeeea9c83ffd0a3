"""One step at a time, each by what is recorded and what the runtime shows."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import PurePath
from typing import Any

import pytest

from services.chassis.errors import Conflict, FailedPrecondition, InvalidArgument, Unavailable
from services.scheduler.domain.attempts.attempt import AttemptState
from services.scheduler.domain.attempts.runtime import (
    ContainerExit,
    EndCause,
    LeftFile,
    PlacedFile,
)
from services.scheduler.domain.attempts.runtime import ContainerPhase as P
from services.scheduler.domain.attempts.work import AttemptWork
from services.scheduler.domain.files import FileEntry
from services.scheduler.domain.identities import AttemptId
from services.scheduler.domain.jobs.failure import FailureReason
from services.scheduler.domain.jobs.job import Checkpoint, JobState, StopCause, StopRequest
from services.scheduler.domain.jobs.retries import JobRetries
from services.scheduler.domain.jobs.spec import JobInput, JobOutput, JobTimeouts
from services.scheduler.use_cases.attempts.drive_attempt import AGAIN
from services.scheduler.use_cases.attempts.record_attempt import RecordAttempt
from tests.unit.scheduler_runner.bench import LIMITS, Bench
from tests.unit.scheduler_runner.builders import (
    DIGEST,
    NOW,
    RUN_TIMEOUT,
    STOP,
    a_job,
    a_replica,
    an_exit,
    some_work,
)

CREATED = AttemptState.CREATED
LABELS = {"modelyard.port": "1", "modelyard.ready-path": "/ready"}
TRACEPARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


async def test_created_attempt_is_prepared_started_and_recorded(bench: Bench) -> None:
    work = bench.store.given(some_work(CREATED), state=JobState.ADMITTED)

    assert await bench.drive(work) == AGAIN
    assert await bench.drive(work) == AGAIN
    assert await bench.drive(work) is None

    assert bench.runtime.calls == ["create", "start"]
    assert bench.store.fact_names == ["STARTED", "STARTING", "RUNNING"]
    assert bench.store.rows["job_1"].started_at == NOW


async def test_container_is_not_looked_at_between_its_creation_and_its_start(bench: Bench) -> None:
    work = bench.store.given(some_work(CREATED), state=JobState.ADMITTED)
    for phase in (P.CREATED, P.RUNNING):
        await bench.drive(work)
        assert bench.memory.left is not None
        assert bench.memory.left.phase is phase

    await bench.drive(work)
    assert bench.memory.left is None


async def test_container_is_looked_at_again_after_a_failed_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = bench.store.given(some_work(CREATED), state=JobState.ADMITTED)
    await bench.drive(work)
    with monkeypatch.context() as away:
        away.setattr(bench.runtime, "start", _refusing(Unavailable("the engine")))
        with pytest.raises(Unavailable):
            await bench.drive(work)
    bench.runtime.is_(P.RUNNING)  # the engine had heard of it

    await bench.drive(work)

    assert bench.runtime.calls == ["create"]
    assert bench.store.fact_names == ["STARTED", "STARTING", "RUNNING"]


@pytest.mark.parametrize(
    "given", [{"source_digest": DIGEST}, {"inputs": (JobInput("train.csv", DIGEST),)}]
)
async def test_start_is_recorded_before_files_are_fetched(
    bench: Bench, given: dict[str, Any]
) -> None:
    work = some_work(CREATED, owner=a_job(**given))
    await bench.drive(bench.store.given(work, state=JobState.ADMITTED))

    assert bench.store.fact_names == ["STARTING"]


async def test_job_whose_checkpoint_is_lost_begins_anew_and_says_so(bench: Bench) -> None:
    lost = Checkpoint(1, (FileEntry("weights/epoch", 5, DIGEST),))
    work = some_work(CREATED, owner=replace(a_job(), checkpoint=lost))
    bench.store.given(work, state=JobState.ADMITTED)
    bench.artifacts.missing = {DIGEST}
    for _ in range(3):
        await bench.drive(work)

    assert bench.runtime.calls == ["create", "start"]
    assert bench.store.rows["job_1"].state is JobState.RUNNING
    assert bench.store.rows["job_1"].reason == "started; its checkpoint is lost, so it began anew"


async def test_checkpoint_does_not_hide_what_else_is_missing(bench: Bench) -> None:
    kept = Checkpoint(1, (FileEntry("weights/epoch", 5, DIGEST),))
    owner = replace(a_job(inputs=(JobInput("train.csv", DIGEST),)), checkpoint=kept)
    work = bench.store.given(some_work(CREATED, owner=owner), state=JobState.ADMITTED)
    bench.artifacts.missing = {DIGEST}
    await bench.drive(work)

    assert bench.runtime.calls == ["entomb"]


async def test_nothing_is_started_once_the_node_is_lost_while_that_is_recorded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = bench.store.given(some_work(CREATED), state=JobState.STARTING)
    bench.runtime.is_(P.CREATED)
    bench.memory.hindered_by = "the engine is not available"

    async def lose_the_node(*_: object, **__: object) -> None:
        bench.node_lease.held = None

    monkeypatch.setattr(RecordAttempt, "starting", lose_the_node)
    with pytest.raises(Unavailable):
        await bench.drive(work)

    assert bench.runtime.calls == []


async def test_start_is_recorded_when_it_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = bench.store.given(some_work(CREATED), state=JobState.ADMITTED)
    monkeypatch.setattr(bench.runtime, "create", _refusing(Unavailable("the engine")))
    for _ in range(2):
        with pytest.raises(Unavailable):
            await bench.drive(work)

    assert bench.store.fact_names == ["STARTING"]


async def test_start_is_tried_again_while_the_registry_is_down(bench: Bench) -> None:
    work = bench.store.given(some_work(CREATED), state=JobState.ADMITTED)
    bench.artifacts.is_up = False
    bench.clock.advance(timedelta(days=1))  # the whole platform was away: nobody has tried yet
    for wait in (timedelta(0), LIMITS.start_wait_max - timedelta(seconds=1)):
        bench.clock.advance(wait)
        with pytest.raises(Unavailable):
            await bench.drive(work)
    job = bench.store.rows["job_1"]
    assert job.state is JobState.STARTING
    assert job.reason == "preparing its container; tried again: model-registry is not available"
    assert bench.store.fact_names == ["STARTING"]

    bench.clock.advance(timedelta(seconds=1))
    await bench.drive(work)
    job = bench.store.rows["job_1"]
    assert job.state is JobState.QUEUED
    assert job.reason == "retry 1 of 3 in 5 s: model-registry is not available"
    assert bench.store.rows["att_1"].state is AttemptState.CLOSED
    assert bench.store.used["node-1"] == 0


@pytest.mark.parametrize("phase", [P.ABSENT, P.CREATED])
async def test_start_is_given_up_when_its_time_is_over(bench: Bench, phase: P) -> None:
    owner = a_job(timeouts=JobTimeouts(start=timedelta(minutes=1)))
    late = some_work(CREATED, owner=owner, placed_for=timedelta(minutes=1))
    work = bench.store.given(late, state=JobState.STARTING)
    bench.runtime.is_(phase)

    await bench.drive(work)

    assert bench.runtime.calls == ["entomb"]
    assert bench.store.rows["job_1"].reason == "retry 1 of 3 in 5 s: did not start within 1 min"


async def test_start_is_given_up_while_its_files_still_come(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = a_job(timeouts=JobTimeouts(start=timedelta(minutes=1)))
    almost_late = some_work(CREATED, owner=owner, placed_for=timedelta(seconds=59.999))
    work = bench.store.given(almost_late, state=JobState.STARTING)

    async def never(_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(bench.runtime, "create", never)

    await bench.drive(work)

    assert bench.runtime.calls == ["entomb"]
    assert bench.store.fact_names == ["CLOSED", "QUEUED"]


async def test_a_program_that_has_started_is_not_given_up_for_a_late_start(bench: Bench) -> None:
    owner = a_job(timeouts=JobTimeouts(start=timedelta(minutes=1)))
    late = some_work(CREATED, owner=owner, placed_for=timedelta(hours=1))
    work = bench.store.given(late, state=JobState.STARTING)
    bench.runtime.is_(P.RUNNING)

    await bench.drive(work)

    assert bench.store.fact_names == ["STARTED", "RUNNING"]


@pytest.mark.parametrize("phase", [P.ABSENT, P.CREATED])
async def test_start_is_given_up_when_it_can_not_be_helped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, phase: P
) -> None:
    work = bench.store.given(some_work(CREATED), state=JobState.STARTING)
    bench.runtime.is_(phase)
    act = "create" if phase is P.ABSENT else "start"
    monkeypatch.setattr(bench.runtime, act, _refusing(InvalidArgument("image", "is not known")))

    await bench.drive(work)

    assert bench.runtime.calls == ["entomb"]
    assert bench.store.rows["job_1"].failure.message == "image: is not known"
    assert bench.store.fact_names == ["CLOSED", "FAILED"]


async def test_reason_of_a_given_up_start_survives_a_failing_record(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = bench.store.given(some_work(CREATED), state=JobState.STARTING)
    with monkeypatch.context() as away:
        away.setattr(bench.runtime, "create", _refusing(FailedPrecondition("no room")))
        away.setattr(RecordAttempt, "closed", _refusing(Unavailable("database")))
        with pytest.raises(Unavailable):
            await bench.drive(work)

    await bench.drive(work)

    assert bench.store.rows["job_1"].failure.message == "no room"


async def test_unwanted_attempt_is_closed_before_it_starts(bench: Bench) -> None:
    work = bench.store.given(some_work(CREATED, stop=STOP), state=JobState.STOPPING)
    bench.runtime.is_(P.CREATED)

    assert await bench.drive(work) is None

    assert bench.runtime.calls == ["entomb"]
    assert bench.store.fact_names == ["CLOSED", "CANCELLED"]


async def test_attempt_that_an_earlier_runner_started_is_not_closed(bench: Bench) -> None:
    work = bench.store.given(some_work(CREATED, stop=STOP), state=JobState.STOPPING)
    bench.runtime.is_(P.RUNNING)

    assert await bench.drive(work) is None

    assert bench.store.fact_names == ["STARTED"]


async def test_progress_is_recorded_when_it_is_new(bench: Bench) -> None:
    work = bench.store.given(some_work())
    bench.runtime.is_(P.RUNNING)
    bench.runtime.progress = b'{"fraction": 0.5}\n'

    assert await bench.drive(work) == LIMITS.progress_interval
    assert bench.store.rows["job_1"].progress.fraction == 0.5
    assert bench.memory.is_running
    bench.store.rows["job_1"] = replace(bench.store.rows["job_1"], progress=None)
    await bench.drive(work)
    assert bench.store.rows["job_1"].progress is None


@pytest.mark.parametrize("phase", [P.RUNNING, P.EXITED])
async def test_progress_is_recorded_after_it_could_not_be(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, phase: P
) -> None:
    work = bench.store.given(some_work())
    bench.runtime.is_(phase, exit=an_exit(0) if phase is P.EXITED else None)
    bench.runtime.progress = b'{"fraction": 0.5}\n'
    with monkeypatch.context() as refused:
        refused.setattr(bench.store, "lease", None)
        with pytest.raises(Conflict):
            await bench.drive(work)

    await bench.drive(work)

    assert bench.store.rows["job_1"].progress.fraction == 0.5


async def test_watch_ends_with_the_run_time(bench: Bench) -> None:
    work = bench.store.given(some_work())
    bench.runtime.is_(P.RUNNING)
    bench.clock.time = NOW + RUN_TIMEOUT - timedelta(milliseconds=10)

    assert await bench.drive(work) == timedelta(milliseconds=10)
    bench.clock.advance(timedelta(milliseconds=10))
    assert await bench.drive(work) is None
    assert bench.store.fact_names == ["STOPPING"]

    stopping = replace(work, stop=bench.store.rows["job_1"].stop)
    await bench.drive(stopping)
    await bench.drive(stopping)
    assert bench.runtime.calls == ["stop 10"]
    assert bench.store.rows["job_1"].failure.reason is FailureReason.RUN_TIMEOUT


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (an_exit(2), FailureReason.EXIT_CODE),
        (an_exit(137), FailureReason.KILLED),
        (an_exit(137, cause=EndCause.MEMORY_LIMIT), FailureReason.OUT_OF_MEMORY),
        (an_exit(143, cause=EndCause.TIME_LIMIT), FailureReason.RUN_TIMEOUT),
        (an_exit(0, cause=EndCause.TIME_LIMIT), FailureReason.RUN_TIMEOUT),
    ],
)
async def test_end_says_why_the_job_failed(
    bench: Bench, end: ContainerExit, reason: FailureReason
) -> None:
    work = bench.store.given(some_work(traceparent=TRACEPARENT))
    bench.runtime.exited(end)

    await bench.drive(work)

    job = bench.store.rows["job_1"]
    assert (job.state, job.failure.reason) == (JobState.FAILED, reason)
    assert job.failure.last_lines == "last lines"
    assert bench.store.fact_names == ["EXITED", "FAILED"]
    assert [span.traceparent for span in bench.traces.spans] == [TRACEPARENT]
    assert bench.traces.parents == [TRACEPARENT]


async def test_too_little_memory_is_told_with_how_much_it_was(bench: Bench) -> None:
    work = bench.store.given(some_work())
    bench.runtime.exited(an_exit(137, cause=EndCause.MEMORY_LIMIT))

    await bench.drive(work)

    assert bench.store.rows["job_1"].failure.message == "used more memory than its 1 GiB"


async def test_end_is_recorded_and_traced_once(bench: Bench) -> None:
    work = bench.store.given(some_work(traceparent=TRACEPARENT))
    bench.runtime.exited()

    await bench.drive(work)
    await bench.drive(work)

    assert bench.store.fact_names == ["EXITED", "SUCCEEDED"]
    assert len(bench.traces.spans) == 1
    assert bench.store.used["node-1"] == 0


async def test_outputs_wait_for_the_registry_within_a_bound(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = bench.store.given(some_work(owner=a_job(outputs=(JobOutput("m", "m"),))))
    bench.runtime.outputs = {"m": []}
    end = an_exit()
    bench.runtime.exited(end)
    monkeypatch.setattr(bench.runtime, "list_output", _refusing(Unavailable("registry")))
    bench.clock.time = end.ended_at + timedelta(days=1)  # nobody has tried yet
    for wait in (timedelta(0), LIMITS.upload_wait_max - timedelta(seconds=1)):
        bench.clock.advance(wait)
        with pytest.raises(Unavailable):
            await bench.drive(work)

    bench.clock.advance(timedelta(seconds=1))
    await bench.drive(work)
    failure = bench.store.rows["job_1"].failure
    assert (failure.reason, failure.exit_code) == (FailureReason.OUTPUTS, 0)
    assert failure.last_lines == "last lines"


async def test_outputs_are_not_stored_when_nobody_asks_for_them(bench: Bench) -> None:
    owner = a_job(outputs=(JobOutput("m", "m"),))
    work = bench.store.given(some_work(owner=owner, stop=STOP), state=JobState.STOPPING)
    bench.runtime.exited()

    await bench.drive(work)

    assert bench.store.fact_names == ["EXITED", "CANCELLED"]
    assert bench.artifacts.stored == []


@pytest.mark.parametrize("code", [0, 143])
async def test_job_that_only_the_loss_of_its_node_can_have_stopped_is_tried_again(
    bench: Bench, code: int
) -> None:
    work = bench.store.given(some_work())
    bench.runtime.exited(an_exit(code, cause=EndCause.STOP))

    await bench.drive(work)

    job = bench.store.rows["job_1"]
    assert (job.state, job.retry_count) == (JobState.QUEUED, 1)
    assert job.reason.endswith("its node was cut off, so it was stopped")


def tasks_of(bench: Bench, **owner: Any) -> tuple[AttemptWork, AttemptWork]:
    """Store two tasks of one job."""
    first = some_work(owner=a_job(task_count=2, **owner))
    first = replace(first, attempt=replace(first.attempt, task_count=2))
    other = replace(first, attempt=replace(first.attempt, id=AttemptId("att_2"), task=1))
    return bench.store.given(first), bench.store.given(other)


async def test_progress_and_outputs_of_other_tasks_are_not_their_jobs(bench: Bench) -> None:
    first, other = tasks_of(bench, outputs=(JobOutput("m", "m"),))
    bench.store.rows["job_1"] = replace(bench.store.rows["job_1"], attempt_id=first.attempt.id)
    bench.runtime.progress = b'{"fraction": 0.5}\n'
    bench.runtime.is_(P.RUNNING, other.attempt.container_name)
    assert await bench.drive(other) == LIMITS.recheck_interval > LIMITS.progress_interval
    assert bench.memory.is_running
    bench.runtime.is_(P.EXITED, other.attempt.container_name, exit=an_exit())

    await bench.drive(other)

    assert bench.store.rows["job_1"].progress is None
    assert bench.artifacts.stored == []
    assert bench.store.fact_names == ["EXITED"]
    assert bench.store.rows["job_1"].state is JobState.RUNNING


async def test_other_tasks_are_looked_at_when_their_run_time_ends(bench: Bench) -> None:
    _, other = tasks_of(bench)
    bench.runtime.is_(P.RUNNING, other.attempt.container_name)
    bench.clock.time = NOW + RUN_TIMEOUT - timedelta(milliseconds=10)
    assert await bench.drive(other) == timedelta(milliseconds=10)


LEFT = [LeftFile("weights/epoch", PurePath("/container/checkpoint/weights/epoch"))]


async def test_the_first_task_leaves_its_checkpoint_when_another_one_fails_and_no_other_does(
    bench: Bench,
) -> None:
    first, other = tasks_of(bench, retries=JobRetries(exit_codes=(75,)))
    bench.runtime.checkpoint = LEFT
    bench.runtime.is_(P.EXITED, other.attempt.container_name, exit=an_exit(75))

    await bench.drive(other)
    stopping = bench.store.rows["job_1"]
    assert (stopping.state, stopping.checkpoint) == (JobState.STOPPING, None)
    bench.runtime.exited(an_exit(143))
    await bench.drive(replace(first, stop=stopping.stop))

    job = bench.store.rows["job_1"]
    assert (job.state, job.retry_count) == (JobState.QUEUED, 1)
    assert job.checkpoint == Checkpoint(1, (FileEntry("weights/epoch", 5, DIGEST),))


@pytest.mark.parametrize("cause", [StopCause.DRAINED, StopCause.PREEMPTED, StopCause.SUSPENDED])
async def test_checkpoint_is_kept_for_the_next_attempt(bench: Bench, cause: StopCause) -> None:
    stop = replace(STOP, cause=cause)
    work = bench.store.given(some_work(stop=stop), state=JobState.STOPPING)
    bench.runtime.checkpoint = LEFT
    bench.runtime.exited()

    await bench.drive(work)

    job = bench.store.rows["job_1"]
    assert (job.state, job.reason) == (JobState.QUEUED, STOP.reason)
    assert job.checkpoint == Checkpoint(1, (FileEntry("weights/epoch", 5, DIGEST),))
    assert bench.artifacts.stored == [LEFT[0].file]
    assert bench.artifacts.stored_as == {work.attempt.id}


@pytest.mark.parametrize("phase", [P.EXITED, P.LOST])
async def test_checkpoint_is_kept_before_a_retry(bench: Bench, phase: P) -> None:
    work = bench.store.given(some_work(owner=a_job(retries=JobRetries(exit_codes=(75,)))))
    bench.runtime.checkpoint = LEFT
    bench.runtime.is_(phase, exit=an_exit(75) if phase is P.EXITED else None)

    await bench.drive(work)

    job = bench.store.rows["job_1"]
    assert (job.state, job.retry_count) == (JobState.QUEUED, 1)
    assert job.checkpoint is not None


@pytest.mark.parametrize(
    ("code", "stop", "retries"),
    [
        (0, None, JobRetries()),
        (75, None, JobRetries()),
        (75, None, JobRetries(count_max=0, exit_codes=(75,))),
        (75, STOP, JobRetries(exit_codes=(75,))),
    ],
    ids=["succeeded", "not worth a retry", "no retries", "cancelled"],
)
async def test_checkpoint_is_not_kept_when_no_attempt_follows(
    bench: Bench, code: int, stop: StopRequest | None, retries: JobRetries
) -> None:
    work = bench.store.given(
        some_work(owner=a_job(retries=retries), stop=stop),
        state=JobState.RUNNING if stop is None else JobState.STOPPING,
    )
    bench.runtime.checkpoint = LEFT
    bench.runtime.exited(an_exit(code))

    await bench.drive(work)

    assert bench.store.rows["job_1"].is_terminal
    assert bench.artifacts.stored == []


async def test_attempt_without_a_checkpoint_leaves_the_earlier_one(bench: Bench) -> None:
    work = bench.store.given(
        some_work(stop=replace(STOP, cause=StopCause.DRAINED)), state=JobState.STOPPING
    )
    earlier = Checkpoint(1, (FileEntry("epoch", 5, DIGEST),))
    bench.store.rows["job_1"] = replace(bench.store.rows["job_1"], checkpoint=earlier)
    bench.runtime.exited()

    await bench.drive(work)

    assert bench.store.rows["job_1"].checkpoint == earlier


async def test_checkpoint_waits_for_the_registry_within_a_bound_and_then_says_so(
    bench: Bench,
) -> None:
    work = bench.store.given(
        some_work(stop=replace(STOP, cause=StopCause.DRAINED)), state=JobState.STOPPING
    )
    bench.runtime.checkpoint = LEFT
    bench.runtime.exited()
    bench.artifacts.is_up = False
    for wait in (timedelta(0), LIMITS.upload_wait_max - timedelta(seconds=1)):
        bench.clock.advance(wait)
        with pytest.raises(Unavailable):
            await bench.drive(work)

    bench.clock.advance(timedelta(seconds=1))
    await bench.drive(work)
    job = bench.store.rows["job_1"]
    assert (job.state, job.checkpoint) == (JobState.QUEUED, None)
    assert "its checkpoint was not kept: " in job.reason


async def test_checkpoint_is_placed_in_the_next_attempts_container(bench: Bench) -> None:
    kept = Checkpoint(1, (FileEntry("weights/epoch", 5, DIGEST),))
    owner = replace(a_job(), checkpoint=kept)
    work = bench.store.given(some_work(AttemptState.CREATED, owner=owner), state=JobState.ADMITTED)

    await bench.drive(work)

    [spec] = bench.runtime.specs.values()
    assert spec.checkpoint == (PlacedFile("weights/epoch", PurePath("/cache") / DIGEST),)
    assert bench.artifacts.asked == [DIGEST]


@pytest.mark.parametrize("phase", [P.ABSENT, P.LOST, P.TOMBSTONE])
async def test_loss_is_recorded_once_nothing_is_left(bench: Bench, phase: P) -> None:
    work = bench.store.given(some_work(owner=a_job(retries=JobRetries(count_max=0))))
    bench.runtime.is_(phase)

    await bench.drive(work)

    assert bench.runtime.calls == ["wait_exit"]
    assert bench.store.fact_names == ["LOST", "FAILED"]
    assert bench.store.rows["job_1"].failure.reason is FailureReason.LOST


async def test_what_seemed_lost_and_runs_on_is_looked_at_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(_: str) -> None:
        await asyncio.Event().wait()

    work = bench.store.given(some_work())
    bench.runtime.is_(P.CREATED)  # an answer from the past
    monkeypatch.setattr(bench.runtime, "wait_exit", endless)
    limits = replace(LIMITS, loss_wait_max=timedelta(0))
    bench._drive = replace(bench._drive, limits=limits)

    assert await bench.drive(work) == AGAIN
    assert bench.store.fact_names == []

    bench.runtime.is_(P.RUNNING)
    await bench.drive(replace(work, stop=STOP))
    assert bench.runtime.calls == ["stop 10"]


async def test_loss_of_a_container_that_is_still_there_tells_its_last_lines(bench: Bench) -> None:
    work = bench.store.given(some_work(owner=a_job(retries=JobRetries(count_max=0))))
    bench.runtime.is_(P.LOST)

    await bench.drive(work)

    failure = bench.store.rows["job_1"].failure
    assert (failure.exit_code, failure.last_lines) == (None, "last lines")
    assert "nobody saw it end" in failure.message


async def test_replica_is_ready_once_its_server_answers(bench: Bench) -> None:
    work = bench.store.given(some_work(owner=a_replica()))
    bench.runtime.is_(P.RUNNING, labels=LABELS)
    bench.probe.answers = False
    assert await bench.drive(work) == LIMITS.warming_interval

    bench.probe.answers = True
    assert await bench.drive(work) is None
    assert bench.store.rows["rep_1"].address == "127.0.0.1:1"
    assert "RoutingEntry" in bench.store.fact_names


async def test_replica_is_stopped_when_it_does_not_get_ready(bench: Bench) -> None:
    work = bench.store.given(some_work(owner=a_replica()))
    bench.runtime.is_(P.RUNNING, labels=LABELS)
    bench.probe.answers = False
    bench.clock.advance(LIMITS.ready_wait_max)

    assert await bench.drive(work) == AGAIN
    await bench.drive(work)

    assert bench.runtime.calls == ["stop 10"]
    replica = bench.store.rows["rep_1"]
    assert replica.reason == "its server does not answer"
    assert replica.restart_at is not None


async def test_replica_is_taken_out_after_failures_in_a_row(bench: Bench) -> None:
    work = bench.store.given(some_work(owner=a_replica(address="127.0.0.1:1")), state="READY")
    bench.runtime.is_(P.RUNNING, labels=LABELS)
    for answers in (False, False, True, False, False):
        bench.probe.answers = answers
        assert await bench.drive(work) == LIMITS.probe_interval

    assert await bench.drive(work) is None
    assert bench.store.rows["rep_1"].address is None


@pytest.mark.parametrize("phase", list(P))
@pytest.mark.parametrize("state", [AttemptState.CREATED, AttemptState.STARTED])
async def test_runner_without_the_lease_changes_nothing(
    bench: Bench, phase: P, state: AttemptState
) -> None:
    work = bench.store.given(some_work(state, stop=STOP), state=JobState.STOPPING)
    bench.runtime.is_(phase, exit=an_exit() if phase is P.EXITED else None)
    bench.node_lease.held = None

    with pytest.raises(Unavailable):
        await bench.drive(work)

    assert bench.runtime.calls == []
    assert bench.store.facts == []


def _refusing(error: Exception) -> Callable[..., Awaitable[None]]:
    async def refuse(*_: object, **__: object) -> None:
        raise error

    return refuse


async def test_clock_that_leaps_costs_no_patience(bench: Bench) -> None:
    work = bench.store.given(some_work(owner=a_job(outputs=(JobOutput("m", "m"),))))
    bench.runtime.outputs = {"m": [LeftFile("m", PurePath("/out/m"))]}
    bench.runtime.exited()
    bench.artifacts.is_up = False
    for leap in (LIMITS.upload_wait_max, timedelta(days=-1)):
        with pytest.raises(Unavailable):
            await bench.drive(work)
        bench.clock.leap(leap)

    bench.artifacts.is_up = True
    await bench.drive(work)
    assert bench.store.fact_names == ["EXITED", "SUCCEEDED"]


@pytest.mark.parametrize(
    "cause",
    [StopCause.DRAINED, StopCause.PREEMPTED, StopCause.SUSPENDED, StopCause.RUN_TIMEOUT],
)
async def test_job_that_is_sent_back_in_line_while_its_end_is_recorded_keeps_its_checkpoint(
    bench: Bench, cause: StopCause
) -> None:
    stop = replace(STOP, cause=cause)
    retries = JobRetries(count_max=1, reasons=(FailureReason.RUN_TIMEOUT,))
    work = bench.store.given(some_work(owner=a_job(retries=retries)))
    bench.runtime.checkpoint = LEFT
    bench.runtime.exited()
    bench.store.rows["job_1"] = replace(
        bench.store.rows["job_1"], state=JobState.STOPPING, stop=stop
    )

    with pytest.raises(Conflict):  # the runner has not heard of it
        await bench.drive(work)
    assert bench.store.rows["att_1"].state is AttemptState.STARTED
    await bench.drive(replace(work, stop=stop))

    job = bench.store.rows["job_1"]
    kept = Checkpoint(1, (FileEntry("weights/epoch", 5, DIGEST),))
    assert (job.state, job.checkpoint) == (JobState.QUEUED, kept)
