"""Jobs on real processes, from admission to a recorded end."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_trace_id

from services.scheduler.domain.attempts.attempt import AttemptState
from services.scheduler.domain.attempts.ending import AttemptEnding, EndReason
from services.scheduler.domain.attempts.runtime import ContainerPhase, ContainerStatus
from services.scheduler.domain.jobs.failure import FailureReason
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.jobs.spec import JobInput
from services.scheduler.domain.resources import Resources
from tests.integration.scheduler_runner.yard import (
    SMALL,
    TENANT,
    TRACEPARENT,
    RunnerYard,
    an_output,
)

WAITS = "import time; print('up'); time.sleep(60)"
TRAINS = """
import json, os, pathlib
say = open(os.environ["MODELYARD_PROGRESS"], "a")
print(json.dumps({"fraction": 0.5, "message": "half"}), file=say)
print("malformed", file=say)
print(json.dumps({"fraction": 1, "metrics": {"accuracy": 0.97}}), file=say, flush=True)
outputs = pathlib.Path(os.environ["MODELYARD_OUTPUTS"])
data = pathlib.Path(os.environ["MODELYARD_INPUTS"], "data").read_text()
(outputs / "model").mkdir()
(outputs / "model" / "model.joblib").write_text("weights of " + data)
(outputs / "environment.json").write_text(json.dumps(dict(os.environ)))
"""


async def test_job_succeeds_with_outputs_and_metrics(yard: RunnerYard) -> None:
    digest = yard.artifacts.add(TENANT, b"data")
    async with yard.running():
        job = await yard.a_job(
            TRAINS,
            inputs=(JobInput("data", digest),),
            outputs=(an_output("model", register_as="digits"), an_output("environment.json")),
            env={"MINE": "yes"},
        )
        ended = await yard.becomes(job, JobState.SUCCEEDED, JobState.FAILED)

    attempt = await yard.attempt(ended)
    assert ended.state is JobState.SUCCEEDED, ended.failure
    assert ended.progress is not None
    assert (ended.progress.fraction, ended.progress.message) == (1, "half")
    assert ended.progress.metrics == {"accuracy": 0.97}
    assert (attempt.state, attempt.exit_code) == (AttemptState.EXITED, 0)
    assert attempt.log_location is not None
    assert attempt.log_location.path == f"{attempt.container_name}/container.log"
    assert ended.started_at == attempt.started_at
    assert await yard.used() == Resources()
    assert await yard.event_types(job.id) == [
        "job.queued",
        "job.admitted",
        "job.starting",
        "job.running",
        "job.succeeded",
    ]
    assert await yard.event_types(attempt.id) == [
        "attempt.created",
        "attempt.started",
        "attempt.exited",
    ]
    fact = (await yard.job_facts(job))[-1]
    model, environment = fact.outputs
    assert (model.register_as, [file.path for file in model.files]) == ("digits", ["model.joblib"])
    assert yard.artifacts.read(TENANT, model.files[0].digest) == b"weights of data"
    assert dict(fact.metrics) == {"accuracy": 0.97}
    seen = json.loads(yard.artifacts.read(TENANT, environment.files[0].digest))
    assert seen["TRACEPARENT"] == TRACEPARENT
    assert seen["MODELYARD_JOB_ID"] == job.id
    assert seen["MODELYARD_ATTEMPT"] == "1"
    assert seen["MINE"] == "yes"


async def test_run_is_a_span_of_the_submission_s_trace(
    yard: RunnerYard, spans: InMemorySpanExporter
) -> None:
    async with yard.running():
        job = await yard.becomes(await yard.a_job("raise SystemExit(4)"), JobState.FAILED)

    attempt = await yard.attempt(job)
    [span] = [each for each in spans.get_finished_spans() if each.name == "container run"]
    assert format_trace_id(span.context.trace_id) == TRACEPARENT.split("-")[1]
    assert attempt.started_at is not None
    assert span.start_time == pytest.approx(attempt.started_at.timestamp() * 1e9, abs=1e6)
    assert dict(span.attributes or {})["modelyard.container.exit_code"] == 4


async def test_progress_is_shown_while_the_job_runs(yard: RunnerYard) -> None:
    async with yard.running():
        job = await yard.a_job(
            "import os, time\n"
            "print('{\"fraction\": 0.25}', file=open(os.environ['MODELYARD_PROGRESS'], 'a'))\n"
            "time.sleep(60)"
        )

        async def is_shown() -> bool:
            progress = (await yard.job(job)).progress
            return progress is not None and progress.fraction == 0.25

        assert await yard.sees(is_shown, what="progress")


@pytest.mark.parametrize(
    ("program", "reason", "exit_code", "message"),
    [
        ("import sys; sys.exit('it broke')", FailureReason.EXIT_CODE, 1, "exit code 1"),
        (
            "import os; os.kill(os.getpid(), 9)",
            FailureReason.KILLED,
            137,
            "killed by signal 9, maybe for want of memory",
        ),
    ],
)
async def test_job_fails_as_its_program_did(
    yard: RunnerYard, program: str, reason: FailureReason, exit_code: int, message: str
) -> None:
    async with yard.running():
        job = await yard.becomes(await yard.a_job(program), JobState.FAILED)

    assert job.failure is not None
    assert (job.failure.reason, job.failure.exit_code) == (reason, exit_code)
    assert job.failure.message == message
    assert job.failure.last_lines == ("it broke\n" if exit_code == 1 else "")
    assert await yard.used() == Resources()


async def test_job_fails_when_it_uses_more_memory_than_it_asked_for(yard: RunnerYard) -> None:
    async with yard.running():
        job = await yard.a_job(
            "import time; held = bytearray(96 << 20); held[::4096] = b'x' * len(held[::4096]);"
            "time.sleep(60)",
            resources=Resources(cpu_millicores=100, memory_bytes=64 << 20),
        )
        job = await yard.becomes(job, JobState.FAILED)

    assert job.failure is not None
    assert job.failure.reason is FailureReason.OUT_OF_MEMORY
    assert "memory" in job.failure.message


async def test_job_is_stopped_and_fails_when_its_run_time_is_over(yard: RunnerYard) -> None:
    async with yard.running():
        job = await yard.becomes(await yard.a_job(WAITS, run_timeout_s=1), JobState.FAILED)

    assert job.failure is not None
    assert job.failure.reason is FailureReason.RUN_TIMEOUT
    said = AttemptEnding(EndReason.RUN_TIMEOUT, "ran longer than 1 s")
    assert (await yard.attempt(job)).ending == said
    assert (await yard.event_types(job.id))[-2:] == ["job.stopping", "job.failed"]


async def test_job_is_cancelled_once_its_runtime_has_confirmed(yard: RunnerYard) -> None:
    async with yard.running():
        job = await yard.a_job(
            "import signal, time\n"
            "def end(*_): time.sleep(0.3); print('saved', flush=True); raise SystemExit(0)\n"
            "signal.signal(signal.SIGTERM, end)\n"
            "print('{}', file=open(__import__('os').environ['MODELYARD_PROGRESS'], 'a'))\n"
            "time.sleep(60)"
        )
        await yard.said_something(job)
        stopping = await yard.cancel_job(TENANT, job.id, reason="not needed")
        assert stopping.state is JobState.STOPPING
        assert await yard.used() == SMALL
        job = await yard.becomes(job, JobState.CANCELLED)

    attempt = await yard.attempt(job)
    assert job.reason == "not needed"
    assert (attempt.state, attempt.exit_code) == (AttemptState.EXITED, 0)
    assert attempt.ending == AttemptEnding(EndReason.CANCELLED, "not needed")
    assert "saved" in (yard.work_folder(attempt).parent / "container.log").read_text()
    assert await yard.used() == Resources()


async def test_job_of_a_suspended_tenant_stops_with_its_grace_and_runs_again_when_resumed(
    yard: RunnerYard,
) -> None:
    async with yard.running():
        job = await yard.a_job(
            "import os, signal, time\n"
            "def end(*_): print('saved', flush=True); raise SystemExit(0)\n"
            "signal.signal(signal.SIGTERM, end)\n"
            "print('{}', file=open(os.environ['MODELYARD_PROGRESS'], 'a'))\n"
            "time.sleep(60)"
        )
        await yard.said_something(job)
        first = await yard.attempt(await yard.job(job))
        await yard.suspend()
        job = await yard.becomes(job, JobState.QUEUED)
        assert await yard.used() == Resources()
        assert "saved" in yard.output(first)
        assert (job.stop, job.started_at, job.node_id) == (None, None, None)
        await yard.cycle()
        assert (await yard.job(job)).state is JobState.QUEUED

        await yard.suspend(is_suspended=False)
        await yard.cycle()
        await yard.said_something(await yard.becomes(job, JobState.RUNNING))
        await yard.cancel_job(TENANT, job.id, reason="seen enough")
        job = await yard.becomes(job, JobState.CANCELLED)
    assert job.attempt_number == 2
    ending = (await yard.attempt_of(first.id)).ending
    assert ending is not None
    assert ending.reason is EndReason.SUSPENDED
    states = [event.removeprefix("job.") for event in await yard.event_types(job.id)]
    assert states.count("queued") == 2


async def test_job_is_cancelled_without_a_start_while_its_files_can_not_be_fetched(
    yard: RunnerYard,
) -> None:
    yard.artifacts.be("down")
    async with yard.running():
        job = await yard.becomes(await yard.a_job(WAITS), JobState.STARTING)
        await yard.cancel_job(TENANT, job.id, reason="")
        job = await yard.becomes(job, JobState.CANCELLED)

    attempt = await yard.attempt(job)
    container = await yard.runner.runtime.inspect(attempt.container_name)
    assert attempt.state is AttemptState.CLOSED
    assert attempt.ending == AttemptEnding(EndReason.CANCELLED, "cancelled by request")
    assert container.phase is ContainerPhase.TOMBSTONE
    assert await yard.used() == Resources()


async def test_job_starts_once_the_registry_is_back(yard: RunnerYard) -> None:
    yard.artifacts.be("down")
    async with yard.running():
        job = await yard.becomes(await yard.a_job("pass"), JobState.STARTING)
        yard.artifacts.be("down", on=False)
        await yard.becomes(job, JobState.SUCCEEDED)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("down", FailureReason.RUNTIME_ERROR),
        ("missing", FailureReason.START),
        ("broken", FailureReason.START),
    ],
)
async def test_job_fails_to_start_when_its_files_can_not_be_had(
    yard: RunnerYard, state: str, reason: FailureReason
) -> None:
    changes: dict[str, Any] = {
        "down": {},
        "missing": {"source_digest": "sha256:" + "0" * 64},
        "broken": {"source_digest": yard.artifacts.add(TENANT, b"no bundle")},
    }[state]
    if state == "down":
        yard.artifacts.be("down")
    async with yard.running():
        job = await yard.becomes(await yard.a_job("pass", **changes), JobState.FAILED)

    assert job.failure is not None
    assert job.failure.reason is reason
    assert (await yard.attempt(job)).state is AttemptState.CLOSED
    assert await yard.used() == Resources()


async def test_job_fails_when_an_output_is_missing(yard: RunnerYard) -> None:
    async with yard.running():
        job = await yard.a_job("pass", outputs=(an_output("model"),))
        job = await yard.becomes(job, JobState.FAILED)

    assert job.failure is not None
    assert (job.failure.reason, job.failure.exit_code) == (FailureReason.OUTPUTS, 0)
    assert "model" in job.failure.message


WAITS_FOR_END = """
import os, time
while not os.path.exists("end"): time.sleep(0.02)
"""
WRITES = "import os; open(os.path.join(os.environ['MODELYARD_OUTPUTS'], 'model'), 'w').write('m')"


async def test_job_fails_when_its_output_is_refused(yard: RunnerYard) -> None:
    yard.artifacts.be("refusing")
    async with yard.running():
        job = await yard.a_job(WRITES, outputs=(an_output("model"),))
        job = await yard.becomes(job, JobState.FAILED)

    assert job.failure is not None
    assert job.failure.reason is FailureReason.OUTPUTS


@pytest.mark.parametrize("is_back", [True, False])
async def test_job_s_outputs_wait_for_the_registry_but_not_for_ever(
    yard: RunnerYard, is_back: bool
) -> None:
    async with yard.running():
        job = await yard.a_job(WAITS_FOR_END + WRITES, outputs=(an_output("model"),))
        await yard.becomes(job, JobState.RUNNING)
        yard.artifacts.be("down")
        attempt = await yard.attempt(await yard.job(job))
        (yard.work_folder(attempt) / "end").touch()
        await yard.runner.runtime.wait_exit(attempt.container_name)
        assert (await yard.job(job)).state is JobState.RUNNING
        if is_back:
            yard.artifacts.be("down", on=False)
        job = await yard.becomes(job, JobState.SUCCEEDED, JobState.FAILED)

    assert job.state is (JobState.SUCCEEDED if is_back else JobState.FAILED)
    assert await yard.used() == Resources()


async def test_job_that_meets_a_bug_stops_no_other_job_and_goes_on_once_it_is_gone(
    yard: RunnerYard, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect = yard.runner.runtime.inspect
    unlucky = await yard.a_job("pass")
    name = (await yard.attempt(unlucky)).container_name

    async def buggy(asked: str) -> ContainerStatus:
        if asked == name:
            raise KeyError("a bug")
        return await inspect(asked)

    async with yard.running():
        with monkeypatch.context() as bug:
            bug.setattr(yard.runner.runtime, "inspect", buggy)
            await yard.becomes(await yard.a_job("pass"), JobState.SUCCEEDED)
            assert (await yard.job(unlucky)).state is JobState.ADMITTED
        await yard.becomes(unlucky, JobState.SUCCEEDED)


async def test_containers_are_cleaned_up_once_nobody_needs_them(yard: RunnerYard) -> None:
    async with yard.running():
        job = await yard.becomes(await yard.a_job("pass"), JobState.SUCCEEDED)
        running = await yard.becomes(await yard.a_job(WAITS), JobState.RUNNING)
        ended, open_ = await yard.attempt(job), await yard.attempt(running)

        assert await yard.runner.clean_up() == 0
        assert await yard.runner.remove(open_.id) is False
        assert await yard.runner.remove(ended.id) is True
        assert await yard.runner.remove(ended.id) is False

    left = {container.name for container in await yard.runner.runtime.list({})}
    assert left == {open_.container_name}


async def test_clean_up_deletes_old_containers_and_stops_strays(
    yard: RunnerYard,
) -> None:
    async with yard.running():
        job = await yard.becomes(await yard.a_job("pass"), JobState.SUCCEEDED)
        ended = (await yard.attempt(job)).container_name
        stray = await yard.a_stray()
        old = replace(yard.runner.clean_up, kept_after_end=timedelta(0))

        assert await old() == 2
        assert (await yard.runner.runtime.inspect(ended)).phase is ContainerPhase.ABSENT
        assert (await yard.runner.runtime.inspect(stray)).phase is ContainerPhase.EXITED
        assert await old() == 1
    assert await yard.runner.runtime.list({}) == []


async def test_nothing_is_left_of_an_attempt_that_was_given_up_after_a_crash(
    yard: RunnerYard,
) -> None:
    job = await yard.a_job("pass")
    work = (await yard.open_work())[0]
    await yard.runner.drive.prepare(work)  # and its runner died before the start
    await yard.cancel_job(TENANT, job.id, reason="meanwhile")
    async with yard.running():
        await yard.becomes(job, JobState.CANCELLED)

        async def is_tidy() -> bool:
            await yard.runner.clean_up()
            return await yard.runner.runtime.list({}) == []

        await yard.sees(is_tidy, what="nothing is left")
    assert list((yard.root / "containers").iterdir()) == []
