"""What the runtime confirmed, written down once and by the right runner."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from services.chassis.errors import Conflict
from services.scheduler.domain.attempts.attempt import (
    AttemptState,
    AttemptTransitioned,
    LogLocation,
)
from services.scheduler.domain.attempts.ending import AttemptEnding, EndReason
from services.scheduler.domain.attempts.work import AttemptWork
from services.scheduler.domain.deployments.replica import ReplicaState
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import JobProgress, JobState, StopCause, StopRequest
from services.scheduler.domain.jobs.retries import JobRetries
from services.scheduler.use_cases.attempts.record_attempt import (
    TOGETHER_MAX,
    Kept,
    RecordAttempt,
    Succeeded,
)
from services.scheduler.use_cases.ports import UnitOfWork
from tests.unit.scheduler_runner.bench import RETRIED_JOBS_MAX, Bench
from tests.unit.scheduler_runner.builders import NOW, STOP, a_job, a_replica, an_exit, some_work
from tests.unit.scheduler_runner.fakes import HeldLease

LEASE = HeldLease()
FAILURE = JobFailure(FailureReason.LOST, "gone")


async def test_start_moves_attempt_and_job_in_one_commit(bench: Bench) -> None:
    work = bench.store.given(some_work(AttemptState.CREATED), state=JobState.ADMITTED)

    for _ in range(2):
        await bench.record.started(LEASE, work, log_location=LogLocation("x"), at=NOW)

    assert bench.store.fact_names == ["STARTED", "STARTING", "RUNNING"]


async def test_a_bounded_number_of_records_is_under_way_at_once() -> None:
    open_count, seen = 0, []

    @asynccontextmanager
    async def system(*, because: str) -> AsyncIterator[SimpleNamespace]:
        nonlocal open_count
        open_count += 1
        seen.append(open_count)
        await asyncio.sleep(0)  # tidy: allow sleep because others run meanwhile, in no time
        yield SimpleNamespace(hold=_hold, jobs=SimpleNamespace(get_any=_other_job))
        open_count -= 1

    async def _hold(_: object) -> None: ...

    async def _other_job(_: object) -> SimpleNamespace:
        return SimpleNamespace(attempt_number=2)

    store = cast("UnitOfWork", SimpleNamespace(system=system))
    record = RecordAttempt(store, retried_jobs_max=1, chance=lambda: 0.0)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(5 * TOGETHER_MAX):
            tasks.create_task(record.progressed(LEASE, some_work(), JobProgress(0, "", {}, NOW)))

    assert (len(seen), max(seen)) == (5 * TOGETHER_MAX, TOGETHER_MAX)


async def test_start_leaves_a_stopping_job_as_it_is(bench: Bench) -> None:
    work = bench.store.given(some_work(AttemptState.CREATED, stop=STOP), state=JobState.STOPPING)

    await bench.record.started(LEASE, work, log_location=LogLocation("x"), at=NOW)

    assert bench.store.fact_names == ["STARTED"]


async def test_end_of_an_old_attempt_frees_capacity_and_leaves_the_owner_alone(
    bench: Bench,
) -> None:
    work = bench.store.given(some_work())
    bench.store.rows["job_1"] = replace(
        bench.store.rows["job_1"], attempt_id="att_2", attempt_number=2
    )

    await bench.record.lost(LEASE, work, FAILURE)

    assert bench.store.fact_names == ["LOST"]
    assert bench.store.used["node-1"] == 0


async def test_end_of_a_replica_publishes_where_it_no_longer_answers(bench: Bench) -> None:
    work = bench.store.given(some_work(owner=a_replica(address="127.0.0.1:1")), state="READY")

    await bench.record.exited(LEASE, work, an_exit(1), FAILURE, progress=None)

    assert bench.store.rows["rep_1"].reason == "gone"
    assert bench.store.fact_names == ["EXITED", "RoutingEntry", "preparing"]


@pytest.mark.parametrize("is_end_seen", [True, False])
async def test_end_tells_whether_the_runtime_saw_it(bench: Bench, *, is_end_seen: bool) -> None:
    work = bench.store.given(some_work())
    end = an_exit(0, is_end_seen=is_end_seen)

    await bench.record.exited(LEASE, work, end, Succeeded(()), progress=None)

    (fact,) = (fact for fact in bench.store.facts if isinstance(fact, AttemptTransitioned))
    assert fact.is_end_seen is is_end_seen


async def test_lost_attempt_is_followed_by_another_once_it_is_closed(bench: Bench) -> None:
    work = bench.store.given(some_work())

    for _ in range(2):
        await bench.record.lost(LEASE, work, FAILURE)

    job = bench.store.rows["job_1"]
    assert (job.state, job.retry_count) == (JobState.QUEUED, 1)
    assert bench.store.fact_names == ["LOST", "QUEUED"]
    assert bench.store.used["node-1"] == 0


async def test_job_is_not_tried_again_while_too_many_of_its_tenant_are(bench: Bench) -> None:
    work = bench.store.given(some_work())
    ours = bench.store.rows["job_1"]
    for number in range(RETRIED_JOBS_MAX):
        other = replace(ours, id=f"other_{number}", retry_at=NOW)
        bench.store.rows[other.id] = other
    bench.store.rows["foreign"] = replace(ours, id="foreign", tenant="foreign", retry_at=NOW)

    await bench.record.lost(LEASE, work, FAILURE)

    job = bench.store.rows["job_1"]
    assert job.state is JobState.FAILED
    assert job.failure.reason is FailureReason.LOST
    assert job.failure.message.startswith("not tried again, since 2 jobs of its tenant")


@pytest.mark.parametrize("cause", [StopCause.CANCELLED, StopCause.SUSPENDED])
async def test_what_was_asked_to_stop_is_not_a_retry(bench: Bench, cause: StopCause) -> None:
    work = bench.store.given(some_work(stop=replace(STOP, cause=cause)), state=JobState.STOPPING)

    await bench.record.lost(LEASE, work, FAILURE)

    job = bench.store.rows["job_1"]
    is_back = cause is StopCause.SUSPENDED
    assert job.state is (JobState.QUEUED if is_back else JobState.CANCELLED)
    assert (job.retry_count, job.retry_at) == (0, None)


async def test_job_that_was_stopped_for_its_run_time_is_tried_again_if_asked(bench: Bench) -> None:
    retries = JobRetries(reasons=(FailureReason.RUN_TIMEOUT,))
    work = bench.store.given(some_work(owner=a_job(retries=retries)))
    await bench.record.out_of_time(LEASE, work)
    work = replace(work, stop=bench.store.rows["job_1"].stop)

    await bench.record.exited(LEASE, work, an_exit(0), Succeeded(()), progress=None)

    job = bench.store.rows["job_1"]
    assert (job.state, job.retry_count, job.stop) == (JobState.QUEUED, 1, None)


async def test_job_that_was_stopped_for_its_run_time_fails_even_with_exit_code_0(
    bench: Bench,
) -> None:
    work = bench.store.given(some_work())
    await bench.record.out_of_time(LEASE, work)

    await bench.record.exited(LEASE, work, an_exit(0), Succeeded(()), progress=None)

    job = bench.store.rows["job_1"]
    assert (job.state, job.failure.reason) == (JobState.FAILED, FailureReason.RUN_TIMEOUT)


def ending_of(bench: Bench) -> AttemptEnding | None:
    attempt = bench.store.rows["att_1"]
    assert attempt.is_terminal
    ending: AttemptEnding | None = attempt.ending
    return ending


async def exited(bench: Bench, work: AttemptWork, *, code: int = 0, kept: Kept = Kept()) -> None:  # noqa: B008 it is frozen
    outcome = Succeeded(()) if code == 0 else JobFailure(FailureReason.EXIT_CODE, "exit code 1")
    await bench.record.exited(LEASE, work, an_exit(code), outcome, progress=None, kept=kept)


async def test_attempt_whose_program_ended_says_how_that_went(bench: Bench) -> None:
    for code, said in (
        (0, AttemptEnding(EndReason.SUCCEEDED, "exit code 0")),
        (1, AttemptEnding(EndReason.EXIT_CODE, "exit code 1")),
    ):
        await exited(bench, bench.store.given(some_work()), code=code)
        assert ending_of(bench) == said


async def test_attempt_that_is_lost_or_never_ran_says_why(bench: Bench) -> None:
    await bench.record.lost(LEASE, bench.store.given(some_work()), FAILURE)
    assert ending_of(bench) == AttemptEnding(EndReason.LOST, "gone")

    work = bench.store.given(some_work(AttemptState.CREATED), state=JobState.STARTING)
    await bench.record.closed(LEASE, work, JobFailure(FailureReason.START, "no such image"))
    assert ending_of(bench) == AttemptEnding(EndReason.START, "no such image")


@pytest.mark.parametrize("cause", StopCause)
async def test_attempt_that_was_stopped_says_for_what_however_it_ended(
    bench: Bench, cause: StopCause
) -> None:
    stop = StopRequest(cause, "asked", NOW, FAILURE if cause is StopCause.TASK_FAILED else None)
    said = AttemptEnding(EndReason(cause), "asked")

    for code in (0, 1):
        await exited(bench, bench.store.given(some_work(stop=stop), state="STOPPING"), code=code)
        assert ending_of(bench) == said
    work = bench.store.given(some_work(stop=stop), state="STOPPING")
    await bench.record.lost(LEASE, work, FAILURE)
    assert ending_of(bench) == said
    work = bench.store.given(some_work(AttemptState.CREATED, stop=stop), state="STOPPING")
    await bench.record.closed(LEASE, work, FAILURE)
    assert ending_of(bench) == said


async def test_attempt_says_that_its_checkpoint_was_not_kept(bench: Bench) -> None:
    stop = StopRequest(StopCause.DRAINED, "node-1 is drained", NOW)
    work = bench.store.given(some_work(stop=stop), state="STOPPING")

    await exited(bench, work, kept=Kept(problem="too many files"))

    told = "node-1 is drained; its checkpoint was not kept: too many files"
    assert ending_of(bench) == AttemptEnding(EndReason.DRAINED, told)


async def test_old_attempt_of_a_job_that_was_stopped_since_says_how_it_ended_itself(
    bench: Bench,
) -> None:
    work = bench.store.given(some_work(stop=STOP), state="STOPPING")
    bench.store.rows["job_1"] = replace(
        bench.store.rows["job_1"], attempt_id="att_2", attempt_number=2
    )

    await bench.record.lost(LEASE, work, FAILURE)

    assert ending_of(bench) == AttemptEnding(EndReason.LOST, "gone")


@pytest.mark.parametrize("state", [ReplicaState.READY, ReplicaState.STOPPING])
async def test_attempt_of_a_replica_says_why_it_ended(bench: Bench, state: ReplicaState) -> None:
    work = bench.store.given(some_work(owner=a_replica(address="127.0.0.1:1")), state=state)
    replica = bench.store.rows["rep_1"]
    bench.store.rows["rep_1"] = replace(replica, reason="deleted", stop_requested_at=NOW)

    await bench.record.exited(LEASE, work, an_exit(1), FAILURE, progress=None)

    is_stopped = state is ReplicaState.STOPPING
    cancelled = AttemptEnding(EndReason.CANCELLED, "deleted")
    assert ending_of(bench) == (cancelled if is_stopped else AttemptEnding.failed(FAILURE))


async def test_runner_of_an_earlier_epoch_records_nothing(bench: Bench) -> None:
    bench.store.lease = HeldLease(epoch=2)
    work = bench.store.given(some_work())

    with pytest.raises(Conflict):
        await bench.record.lost(LEASE, work, FAILURE)

    assert bench.store.facts == []
