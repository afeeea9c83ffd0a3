"""What the runtime confirmed, written down once and by the right runner."""

from dataclasses import replace

import pytest

from services.chassis.errors import Conflict
from services.scheduler.domain.attempts.attempt import (
    AttemptState,
    AttemptTransitioned,
    LogLocation,
)
from services.scheduler.domain.jobs.job import FailureReason, JobFailure, JobState
from services.scheduler.use_cases.attempts.record_attempt import Succeeded
from tests.unit.scheduler_runner.bench import Bench
from tests.unit.scheduler_runner.builders import NOW, STOP, a_replica, an_exit, some_work
from tests.unit.scheduler_runner.fakes import HeldLease

LEASE = HeldLease()
FAILURE = JobFailure(FailureReason.LOST, "gone")


async def test_start_moves_attempt_and_job_in_one_commit(bench: Bench) -> None:
    work = bench.store.given(some_work(AttemptState.CREATED), state=JobState.ADMITTED)

    for _ in range(2):
        await bench.record.started(LEASE, work, log_location=LogLocation("x"), at=NOW)

    assert bench.store.fact_names == ["STARTED", "STARTING", "RUNNING"]


async def test_start_leaves_a_stopping_job_as_it_is(bench: Bench) -> None:
    work = bench.store.given(some_work(AttemptState.CREATED, stop=STOP), state=JobState.STOPPING)

    await bench.record.started(LEASE, work, log_location=LogLocation("x"), at=NOW)

    assert bench.store.fact_names == ["STARTED"]


async def test_end_of_an_old_attempt_frees_capacity_and_leaves_the_owner_alone(
    bench: Bench,
) -> None:
    work = bench.store.given(some_work())
    bench.store.rows["job_1"] = replace(bench.store.rows["job_1"], attempt_id="att_2")

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


async def test_job_that_was_stopped_for_its_run_time_fails_even_with_exit_code_0(
    bench: Bench,
) -> None:
    work = bench.store.given(some_work())
    await bench.record.out_of_time(LEASE, work)

    await bench.record.exited(LEASE, work, an_exit(0), Succeeded(()), progress=None)

    job = bench.store.rows["job_1"]
    assert (job.state, job.failure.reason) == (JobState.FAILED, FailureReason.RUN_TIMEOUT)


async def test_runner_of_an_earlier_epoch_records_nothing(bench: Bench) -> None:
    bench.store.lease = HeldLease(epoch=2)
    work = bench.store.given(some_work())

    with pytest.raises(Conflict):
        await bench.record.lost(LEASE, work, FAILURE)

    assert bench.store.facts == []
