"""Runners that die, come back, or come too late."""

import os
import signal
from datetime import timedelta

import pytest

from services.chassis.db.errors import LeaseLost
from services.chassis.db.lease import HeldLease
from services.chassis.errors import Unavailable
from services.scheduler.domain.attempts.attempt import AttemptState
from services.scheduler.domain.attempts.runtime import ContainerPhase
from services.scheduler.domain.jobs.failure import FailureReason
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.resources import Resources
from services.scheduler.use_cases.attempts.drive_attempt import AttemptMemory
from tests.integration.scheduler_runner.runner import NODE
from tests.integration.scheduler_runner.yard import TENANT, RunnerYard, an_output

pytestmark = pytest.mark.slow

ENDS_WHEN_TOLD = """
import os, pathlib, time
outputs = pathlib.Path(os.environ["MODELYARD_OUTPUTS"])
say = open(os.environ["MODELYARD_PROGRESS"], "a", buffering=1)
print("begun")
print('{"fraction": 0.5}', file=say)
while not pathlib.Path("end").exists():
    time.sleep(0.02)
print('{"fraction": 1, "metrics": {"accuracy": 0.9}}', file=say)
(outputs / "model").write_text("weights")
print("ended")
"""
ONCE = ["job.queued", "job.admitted", "job.starting", "job.running", "job.succeeded"]


async def test_job_goes_on_and_ends_once_when_its_runner_is_killed(yard: RunnerYard) -> None:
    async with yard.running_elsewhere() as runner:
        job = await yard.a_job(ENDS_WHEN_TOLD, outputs=(an_output("model"),))
        job = await yard.becomes(job, JobState.RUNNING)
        attempt = await yard.attempt(job)
        runner.send_signal(signal.SIGKILL)
        await runner.wait()

    container = await yard.runner.runtime.inspect(attempt.container_name)
    assert container.phase is ContainerPhase.RUNNING

    async with yard.running_elsewhere():
        (yard.work_folder(attempt) / "end").touch()
        job = await yard.becomes(job, JobState.SUCCEEDED, JobState.FAILED)

    attempt = await yard.attempt(job)
    assert job.state is JobState.SUCCEEDED, job.failure
    assert job.progress is not None
    assert (job.progress.fraction, job.progress.metrics) == (1, {"accuracy": 0.9})
    assert await yard.event_types(job.id) == ONCE
    assert (await yard.event_types(attempt.id))[1:] == ["attempt.started", "attempt.exited"]
    assert yard.output(attempt) == "begun\nended\n"
    assert await yard.used() == Resources()


async def test_end_is_recorded_once_when_it_came_while_no_runner_was_there(
    yard: RunnerYard,
) -> None:
    async with yard.running_elsewhere() as runner:
        job = await yard.becomes(await yard.a_job(ENDS_WHEN_TOLD), JobState.RUNNING)
        attempt = await yard.attempt(job)
        runner.send_signal(signal.SIGKILL)
        await runner.wait()
    (yard.work_folder(attempt) / "end").touch()
    await yard.runner.runtime.wait_exit(attempt.container_name)

    async with yard.running():
        job = await yard.becomes(job, JobState.SUCCEEDED, JobState.FAILED)

    assert await yard.event_types(job.id) == ONCE


async def test_start_is_recorded_when_the_runner_died_before_it_could(yard: RunnerYard) -> None:
    job = await yard.a_job(ENDS_WHEN_TOLD)
    work = (await yard.open_work())[0]
    await yard.runner.drive.prepare(work)
    await yard.runner.runtime.start(work.attempt.container_name)

    async with yard.running():
        job = await yard.becomes(job, JobState.RUNNING)
        (yard.work_folder(work.attempt) / "end").touch()
        job = await yard.becomes(job, JobState.SUCCEEDED)

    assert await yard.event_types(job.id) == ONCE
    assert yard.output(work.attempt) == "begun\nended\n"


async def test_job_is_lost_when_its_container_s_keeper_is_killed(yard: RunnerYard) -> None:
    async with yard.running():
        job = await yard.a_job(
            "import os\nopen(os.environ['MODELYARD_PROGRESS'], 'w').write(str(os.getppid()))\n"
            "import time; time.sleep(60)"
        )
        job = await yard.becomes(job, JobState.RUNNING)
        await yard.said_something(job)
        attempt = await yard.attempt(job)
        keeper = await yard.runner.runtime.read_progress(attempt.container_name, offset=0)
        os.kill(int(keeper.data), signal.SIGKILL)
        job = await yard.becomes(job, JobState.FAILED)

    assert job.failure is not None
    assert job.failure.reason is FailureReason.LOST
    assert (await yard.attempt(job)).state is AttemptState.LOST
    assert await yard.used() == Resources()


async def test_job_is_lost_when_its_container_is_deleted_behind_our_back(
    yard: RunnerYard,
) -> None:
    async with yard.running_elsewhere() as runner:
        job = await yard.becomes(await yard.a_job(ENDS_WHEN_TOLD), JobState.RUNNING)
        attempt = await yard.attempt(job)
        runner.kill()
        await runner.wait()
    await yard.runner.runtime.stop(attempt.container_name, grace=timedelta(0))
    await yard.runner.runtime.remove(attempt.container_name)

    async with yard.running():
        job = await yard.becomes(job, JobState.FAILED)

    assert job.failure is not None
    assert job.failure.reason is FailureReason.LOST


async def test_runner_without_its_lease_touches_nothing(yard: RunnerYard) -> None:
    job = await yard.a_job("pass")
    work = (await yard.open_work())[0]

    with pytest.raises(Unavailable):
        await yard.runner.drive(work, AttemptMemory())

    assert (await yard.job(job)).state is JobState.ADMITTED
    assert await yard.runner.runtime.list({}) == []


async def test_runner_that_lost_its_lease_can_record_nothing(yard: RunnerYard) -> None:
    job = await yard.a_job("pass")
    work = (await yard.open_work())[0]
    held = await yard.runner.lease.acquire()
    assert held is not None
    late = HeldLease(f"node/{NODE}", held.holder, held.epoch - 1)

    with pytest.raises(LeaseLost):
        await yard.runner.drive.record.starting(late, work, hindered_by=None)

    assert (await yard.job(job)).state is JobState.ADMITTED


async def test_node_is_taken_over_when_its_runner_s_lease_runs_out(yard: RunnerYard) -> None:
    async with yard.running_elsewhere() as runner:
        job = await yard.becomes(await yard.a_job(ENDS_WHEN_TOLD), JobState.RUNNING)
        attempt = await yard.attempt(job)
        runner.send_signal(signal.SIGSTOP)  # paused: it can't know that time goes on
        async with yard.running():

            async def is_taken_over() -> bool:
                return yard.runner.lease.is_held()

            await yard.sees(is_taken_over, what="the node is taken over")
            runner.send_signal(signal.SIGCONT)
            (yard.work_folder(attempt) / "end").touch()
            job = await yard.becomes(job, JobState.SUCCEEDED)

    assert await yard.event_types(job.id) == ONCE
    assert (await yard.event_types(attempt.id))[1:] == ["attempt.started", "attempt.exited"]


async def test_cancelling_works_after_a_take_over(yard: RunnerYard) -> None:
    async with yard.running_elsewhere() as runner:
        job = await yard.becomes(await yard.a_job(ENDS_WHEN_TOLD), JobState.RUNNING)
        runner.kill()
        await runner.wait()
    await yard.cancel_job(TENANT, job.id, reason="while nobody looked")

    async with yard.running():
        job = await yard.becomes(job, JobState.CANCELLED)

    assert job.reason == "while nobody looked"
