"""A job of several tasks on real processes."""

import asyncio
import json

from services.scheduler.domain.attempts.attempt import Attempt, AttemptState
from services.scheduler.domain.attempts.ending import EndReason
from services.scheduler.domain.jobs.failure import FailureReason
from services.scheduler.domain.jobs.job import Job, JobState
from services.scheduler.domain.resources import Resources
from tests.integration.scheduler_runner.yard import TENANT, RunnerYard, an_output

TELLS = """
import json, os, pathlib
told = {name: os.environ["MODELYARD_" + name] for name in ("TASK", "TASK_COUNT", "ATTEMPT")}
print(json.dumps(told), flush=True)
pathlib.Path(os.environ["MODELYARD_OUTPUTS"], "rank").write_text(told["TASK"])
print(json.dumps({"fraction": 1, "message": "task " + told["TASK"]}),
      file=open(os.environ["MODELYARD_PROGRESS"], "a"), flush=True)
"""
LAST_FAILS_ONCE_ALL_RUN = """
import os, sys, time
print("up", flush=True)
if os.environ["MODELYARD_TASK"] == "2":
    while not os.path.exists(os.environ["GATE"]):
        time.sleep(0.05)
    sys.exit(3)
time.sleep(60)
"""


async def tasks_of(yard: RunnerYard, job: Job) -> list[Attempt]:
    async with yard.store(TENANT) as tx:
        return list(await tx.jobs.attempts(job.id, after=None, limit=10))


async def test_each_task_knows_its_rank_and_the_first_ones_outputs_are_the_jobs(
    yard: RunnerYard,
) -> None:
    async with yard.running():
        job = await yard.a_job(TELLS, outputs=(an_output("rank"),), task_count=3)
        ended = await yard.becomes(job, JobState.SUCCEEDED, JobState.FAILED)

    assert ended.state is JobState.SUCCEEDED, ended.failure
    attempts = await tasks_of(yard, job)
    assert [json.loads(yard.output(attempt)) for attempt in attempts] == [
        {"TASK": str(task), "TASK_COUNT": "3", "ATTEMPT": "1"} for task in range(3)
    ]
    assert {attempt.state for attempt in attempts} == {AttemptState.EXITED}
    [output] = (await yard.job_facts(job))[-1].outputs
    assert yard.artifacts.read(TENANT, output.files[0].digest) == b"0"
    assert ended.progress is not None
    assert ended.progress.message == "task 0"
    assert await yard.used() == Resources()


async def test_the_failure_of_one_task_stops_the_others_and_is_their_jobs(
    yard: RunnerYard,
) -> None:
    gate = yard.root / "gate"

    async def all_run() -> bool:
        states = [attempt.state for attempt in await tasks_of(yard, job)]
        return states == [AttemptState.STARTED] * 3

    async with yard.running():
        job = await yard.a_job(LAST_FAILS_ONCE_ALL_RUN, env={"GATE": str(gate)}, task_count=3)
        await yard.sees(all_run, what="all tasks run")
        await asyncio.to_thread(gate.touch)
        failed = await yard.becomes(job, JobState.FAILED, JobState.SUCCEEDED)

    assert failed.failure is not None
    assert (failed.failure.reason, failed.failure.exit_code) == (FailureReason.EXIT_CODE, 3)
    assert failed.reason == "task 2: exit code 3"
    reasons = [attempt.ending and attempt.ending.reason for attempt in await tasks_of(yard, job)]
    assert reasons == [EndReason.TASK_FAILED, EndReason.TASK_FAILED, EndReason.EXIT_CODE]
    assert await yard.used() == Resources()
