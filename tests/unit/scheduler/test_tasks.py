"""A job of several tasks: what it records while some of them have ended and others go on."""

from dataclasses import replace
from typing import Any

import pytest

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.identities import AttemptId, NodeId
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import Job, JobState, OutputManifest, StopCause
from services.scheduler.domain.jobs.retries import JobRetries
from services.scheduler.domain.jobs.spec import TASKS_MAX
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.tenants.tenant import Plan
from tests.unit.scheduler.builders import NODE, NOW, a_job, a_spec, later, resources

ATTEMPT = AttemptId("att_1")
OTHER = NodeId("node-2")
LOST = JobFailure(FailureReason.LOST, "task 2: gone")
EXIT_1 = JobFailure(FailureReason.EXIT_CODE, "task 2: exit code 1", exit_code=1)
OUTPUTS = (OutputManifest("model", "digits", ()),)


def running_job(**spec: Any) -> Job:
    job, _ = a_job(spec=a_spec(task_count=3, **spec)).admitted(
        ATTEMPT, NODE, NODE, OTHER, at=later(1)
    )
    return job.starting(at=later(2))[0].running(at=later(3))[0]


def stopping_job(failure: JobFailure, **spec: Any) -> Job:
    moved = running_job(**spec).task_failed(failure, at=later(4))
    assert moved is not None
    return moved[0]


@pytest.mark.parametrize("count", [0, -1, TASKS_MAX + 1])
def test_a_job_has_a_bounded_number_of_tasks(count: int) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        a_spec(task_count=count).check()
    assert refusal.value.detail["field"] == "spec.task_count"
    a_spec(task_count=TASKS_MAX).check()


def test_all_tasks_together_take_their_resources_as_many_times() -> None:
    spec = a_spec(task_count=3, resources=resources(cpu=2, memory=4, gpus=1))
    assert spec.total_resources == resources(cpu=6, memory=12, gpus=3)
    assert a_spec().total_resources is a_spec().resources


def test_resources_are_counted_by_the_amount_of_which_there_is_least() -> None:
    free = Resources(10_000, 100, 3)
    assert Resources(1_000, 1, 1).count_in(free, most=9) == 3
    assert Resources(1_000, 1, 0).count_in(free, most=9) == 9
    assert Resources(1_000, 50, 1).count_in(free, most=9) == 2
    assert Resources(0, 0, 4).count_in(free, most=9) == 0


@pytest.mark.parametrize(
    ("nodes", "told"),
    [((NODE, NODE, OTHER), "3 tasks placed on 2 nodes"), ((NODE,) * 3, "3 tasks placed on node-1")],
)
def test_a_job_says_where_its_tasks_were_placed(nodes: tuple[NodeId, ...], told: str) -> None:
    job, _ = a_job(spec=a_spec(task_count=3)).admitted(ATTEMPT, *nodes, at=NOW)
    assert (job.reason, job.node_id) == (told, NODE)


def test_a_job_is_placed_with_all_of_its_tasks() -> None:
    with pytest.raises(AssertionError):
        a_job(spec=a_spec(task_count=3)).admitted(ATTEMPT, NODE, OTHER, at=NOW)


def test_the_first_failure_is_kept_with_the_stop_and_is_not_shown_yet() -> None:
    job = stopping_job(LOST)
    assert job.stop is not None
    assert (job.state, job.reason, job.failure) == (JobState.STOPPING, "task 2: gone", None)
    assert (job.stop.cause, job.stop.failure) == (StopCause.TASK_FAILED, LOST)
    assert job.task_failed(EXIT_1, at=later(5)) is None


def test_what_a_program_left_behind_is_bounded_before_it_is_kept() -> None:
    noise = replace(EXIT_1, message="x\0" * 1_000, last_lines="y\udc80" * 10_000)
    stop = stopping_job(noise).stop
    assert stop is not None
    assert stop.failure == noise.bounded()
    assert len(stop.reason) == 512


def test_a_job_that_stops_for_a_task_can_be_cancelled_while_it_would_come_back() -> None:
    asked = stopping_job(LOST).asked_to_stop(reason="mine", at=later(5))
    assert asked is not None
    cancelled, _ = asked
    assert cancelled.stop is not None
    assert (cancelled.stop.cause, cancelled.stop.failure) == (StopCause.CANCELLED, None)

    for_good = stopping_job(EXIT_1)
    assert for_good.asked_to_stop(reason="mine", at=later(5)) is None
    spent = stopping_job(LOST, retries=JobRetries(count_max=0))
    assert spent.asked_to_stop(reason="mine", at=later(5)) is None
    worth_it = stopping_job(EXIT_1, retries=JobRetries(exit_codes=(1,)))
    assert worth_it.asked_to_stop(reason="mine", at=later(5)) is not None


def test_a_job_that_stops_for_a_task_is_asked_for_nothing_else() -> None:
    for cause in (StopCause.DRAINED, StopCause.SUSPENDED):
        assert stopping_job(LOST).asked_to_stop(reason="x", at=NOW, cause=cause) is None


def test_outputs_are_kept_until_the_job_ends_or_comes_back_and_no_fact() -> None:
    job = running_job()
    kept = job.kept_output(OUTPUTS)
    assert (kept.version, kept.kept_outputs) == (job.version, OUTPUTS)
    stopping = kept.task_failed(LOST, at=later(4))
    assert stopping is not None
    assert stopping[0].kept_outputs == OUTPUTS
    assert stopping[0].retried(LOST, at=later(5), chance=0)[0].kept_outputs == ()
    ended, fact = kept.succeeded(OUTPUTS, at=later(5))
    assert (ended.kept_outputs, fact.outputs) == ((), OUTPUTS)


def test_a_plan_refuses_what_could_never_run_together() -> None:
    plan = Plan(running_max=resources(cpu=4, memory=8))
    plan.check_together(resources(cpu=2, memory=2), count=2, field="spec.task_count")
    with pytest.raises(InvalidArgument) as refusal:
        plan.check_together(resources(cpu=1, memory=3), count=3, field="spec.task_count")
    assert refusal.value.message == (
        "spec.task_count: 3 of them ask for memory_bytes 9 GiB together, and this tenant's plan"
        " lets at most 8 GiB run together"
    )
    Plan().check_together(resources(cpu=9), count=512, field="spec.task_count")
