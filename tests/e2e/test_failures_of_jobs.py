"""A job that does not end well says why, leaves no process, and holds its node until then."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import pytest
from modelyard.client import Job, JobInput, JobOutput, JobSpec

from tests.e2e.bench import Bench, is_running
from tests.e2e.platform import CPU_MILLICORES

A_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Failing:
    """A program that does not end well, and what is to be said about it."""

    program: str
    reason: str
    exit_code: int | None
    outputs: Sequence[JobOutput] = ()
    run: timedelta = A_DAY
    first: str = "pass"
    """What the program does before it waits."""


FAILING = {
    "its script fails": Failing("sys.exit(3)", "exit_code", 3),
    "it is killed": Failing("os.kill(os.getpid(), signal.SIGKILL)", "killed", 137),
    "it runs for too long": Failing(
        "time.sleep(600)", "run_timeout", 143, run=timedelta(seconds=2)
    ),
    "it leaves in order when it ran for too long": Failing(
        "time.sleep(600)",
        "run_timeout",
        0,
        run=timedelta(seconds=2),
        first="signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))",
    ),
    "it ignores that it ran for too long": Failing(
        "time.sleep(600)",
        "run_timeout",
        137,
        run=timedelta(seconds=2),
        first="signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    ),
    "its output is missing": Failing(
        "pass", "outputs", 0, outputs=[JobOutput(name="model", path="model.bin")]
    ),
}


@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING.keys())
def test_job_fails_with_its_reason_and_frees_its_node_only_then(
    bench: Bench, failing: Failing
) -> None:
    job = bench.submit(
        bench.spec(
            f"{failing.first}; sys.stderr.write('last words\\n'); wait(); {failing.program}",
            cpu_millicores=CPU_MILLICORES,
            outputs=failing.outputs,
            run=failing.run,
        )
    )
    process = bench.process_of(job)
    next_job = bench.submit(whole_node_job(bench, after=process))
    bench.open_gate()

    failed = bench.ended(job)

    assert (failed.state, failed.attempt_number) == ("FAILED", 1)
    assert failed.failure is not None
    assert (failed.failure.reason, failed.failure.exit_code) == (failing.reason, failing.exit_code)
    assert "last words" in failed.failure.last_lines
    assert failed.failure.message
    assert not is_running(process)
    assert_ran_afterwards(bench, next_job, first=failed)


def test_cancelled_job_is_stopping_until_its_process_is_gone(bench: Bench) -> None:
    job = bench.submit(
        bench.spec(
            "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(600)",
            cpu_millicores=CPU_MILLICORES,
        )
    )
    process = bench.process_of(job)
    next(bench.client.follow_logs(job.id))  # deaf by now
    next_job = bench.submit(whole_node_job(bench, after=process))

    stopping = bench.client.cancel_job(job.id, reason="changed my mind")
    assert stopping.state == "STOPPING"

    cancelled = bench.ended(job)
    assert (cancelled.state, cancelled.reason) == ("CANCELLED", "changed my mind")
    assert not is_running(process)
    assert_ran_afterwards(bench, next_job, first=cancelled)


def test_job_in_line_is_cancelled_at_once_and_never_starts(bench: Bench) -> None:
    first = bench.submit(bench.spec("wait()", cpu_millicores=CPU_MILLICORES))
    bench.process_of(first)
    waiting = bench.submit(bench.spec("pass", cpu_millicores=CPU_MILLICORES))

    assert bench.client.cancel_job(waiting.id, reason="no need").state == "CANCELLED"

    bench.open_gate()
    assert bench.ended(first).state == "SUCCEEDED"
    assert bench.starts_of(waiting) == []


def test_job_whose_input_nobody_has_stored_fails_naming_the_field(bench: Bench) -> None:
    nowhere = JobInput(name="data", digest="sha256:" + "0" * 64)
    spec = bench.spec("pass").model_copy(update={"inputs": [nowhere]})

    failed = bench.ended(bench.submit(spec))

    assert failed.failure is not None
    assert failed.failure.reason == "start"
    assert failed.failure.message.startswith(f"inputs[0].digest: artifact {nowhere.digest}")


def whole_node_job(bench: Bench, *, after: int) -> JobSpec:
    """Describe a job that needs the whole node and prints whether an earlier process lives."""
    return bench.spec(f"print(os.path.exists('/proc/{after}'))", cpu_millicores=CPU_MILLICORES)


def assert_ran_afterwards(bench: Bench, job: Job, *, first: Job) -> None:
    second = bench.ended(job)
    assert second.state == "SUCCEEDED"
    assert [record.text for record in bench.output_of(job)] == ["False"]
    assert first.ended_at is not None
    assert second.started_at is not None
    assert second.started_at >= first.ended_at
