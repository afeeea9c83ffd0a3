"""Jobs that are tried again: on a real database, with real processes."""

from datetime import timedelta

from services.scheduler.domain.attempts.attempt import AttemptState
from services.scheduler.domain.attempts.ending import AttemptEnding, EndReason
from services.scheduler.domain.jobs.failure import FailureReason
from services.scheduler.domain.jobs.job import Job, JobState
from services.scheduler.domain.jobs.retries import JobRetries
from services.scheduler.domain.jobs.spec import JobTimeouts
from services.scheduler.domain.resources import Resources
from tests.integration.scheduler_runner.yard import RunnerYard

ENDS_WELL_AT_THE_SECOND_ATTEMPT = """
import os, sys
print("attempt", os.environ["MODELYARD_ATTEMPT"], flush=True)
sys.exit(0 if os.environ["MODELYARD_ATTEMPT"] == "2" else 75)
"""


async def admitted_again(yard: RunnerYard, job: Job) -> None:
    """Let the scheduler look until a retry's pause is over."""

    async def is_admitted() -> bool:
        await yard.cycle()
        return (await yard.job(job)).state is not JobState.QUEUED

    await yard.sees(is_admitted, what=f"{job.id} is admitted again")


async def test_job_is_tried_again_after_an_exit_code_that_says_so(yard: RunnerYard) -> None:
    async with yard.running():
        job = await yard.a_job(
            ENDS_WELL_AT_THE_SECOND_ATTEMPT, retries=JobRetries(exit_codes=(75,))
        )
        first = await yard.attempt(job)
        job = await yard.becomes(job, JobState.QUEUED)
        assert job.reason == "retry 1 of 3 in 5 s: exit code 75"
        assert await yard.used() == Resources()

        await admitted_again(yard, job)
        job = await yard.becomes(job, JobState.SUCCEEDED, JobState.FAILED)

    second = await yard.attempt(job)
    assert (job.state, job.retry_count, second.number) == (JobState.SUCCEEDED, 1, 2)
    first = await yard.attempt_of(first.id)
    assert first.state is AttemptState.EXITED
    assert first.ending == AttemptEnding(EndReason.EXIT_CODE, "exit code 75")
    assert second.ending == AttemptEnding.succeeded()
    assert job.retry_at is not None
    assert second.created_at >= job.retry_at
    assert yard.output(first) == "attempt 1\n"
    assert yard.output(second) == "attempt 2\n"
    assert await yard.event_types(job.id) == [
        "job.queued",
        "job.admitted",
        "job.starting",
        "job.running",
        "job.queued",
        "job.admitted",
        "job.starting",
        "job.running",
        "job.succeeded",
    ]


async def test_job_is_not_tried_again_after_another_exit_code(yard: RunnerYard) -> None:
    async with yard.running():
        job = await yard.a_job("import sys; sys.exit(76)", retries=JobRetries(exit_codes=(75,)))
        job = await yard.becomes(job, JobState.FAILED)

    assert job.retry_count == 0


async def test_job_that_does_not_start_in_time_is_given_up(yard: RunnerYard) -> None:
    yard.artifacts.be("down")
    async with yard.running():
        job = await yard.a_job(
            "pass",
            timeouts=JobTimeouts(start=timedelta(seconds=1)),
            retries=JobRetries(count_max=0),
        )
        job = await yard.becomes(job, JobState.FAILED)

    assert job.failure is not None
    assert job.failure.reason is FailureReason.START_TIMEOUT
    assert job.failure.message == "did not start within 1 s: model-registry is not available"
    assert (await yard.attempt(job)).state is AttemptState.CLOSED
