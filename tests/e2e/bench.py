"""The jobs of one test: small programs that wait at a gate which the test opens.

Owns: what these programs are told, and their end after the test, whatever it came to. A program
writes its process id beside the gate as it starts, outside of what the platform keeps, so that a
test knows how often it was started, whoever was killed meanwhile.
"""

import contextlib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from modelyard.client import (
    ApiError,
    Client,
    Job,
    JobOutput,
    JobSpec,
    JobTimeouts,
    LogRecord,
    Resources,
)

from tests.support.eventually import until

_PRELUDE: Final = """
import os, pathlib, signal, sys, time
bench = pathlib.Path(os.environ["BENCH"])
with (bench / os.environ["MODELYARD_JOB_ID"]).open("a") as starts:
    starts.write(f"{os.getpid()}\\n")
def wait():
    while not (bench / "gate").exists():
        time.sleep(0.02)
"""
_END_S_MAX: Final = 60.0


class Bench:
    """Submits jobs and waits for them, as one tenant."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client = client
        self._folder = folder
        self._job_ids: set[str] = set()

    def beside(self, client: Client) -> "Bench":
        """Return a bench with the same gate that submits by another client."""
        other = Bench(client, self._folder)
        other._job_ids = self._job_ids
        return other

    def spec(
        self,
        program: str,
        *,
        name: str = "bench",
        cpu_millicores: int = 100,
        outputs: Sequence[JobOutput] = (),
        run: timedelta = timedelta(seconds=90),
        stop_grace: timedelta = timedelta(seconds=2),
    ) -> JobSpec:
        """Describe a job that runs a Python program, with `wait()` for the gate."""
        return JobSpec(
            name=name,
            image="modelyard/base",
            command=["python", "-c", _PRELUDE + program],
            env={"BENCH": str(self._folder)},
            outputs=list(outputs),
            resources=Resources(cpu_millicores=cpu_millicores, memory_bytes=256 << 20),
            timeouts=JobTimeouts(run=run, stop_grace=stop_grace),
        )

    @staticmethod
    def output(path: str, *, model: str) -> JobOutput:
        """Describe a file of `$MODELYARD_OUTPUTS` that becomes a version of a model."""
        return JobOutput(name="model", path=path, register_as=model)

    def submit(self, spec: JobSpec, *, key: str | None = None) -> Job:
        """Submit a job that ends with the test."""
        job = self.client.submit_job(spec, idempotency_key=key)
        self._job_ids.add(job.id)
        return job

    def open_gate(self) -> None:
        """Let all programs go on."""
        (self._folder / "gate").touch()

    def starts_of(self, job: Job) -> list[int]:
        """Return the process of each start of a job's program."""
        starts = self._folder / job.id
        return [int(pid) for pid in starts.read_text().split()] if starts.exists() else []

    def process_of(self, job: Job) -> int:
        """Wait until a job's program runs; return its process."""
        return until(lambda: self.starts_of(job), what=f"{job.id} starts", within_s=_END_S_MAX)[0]

    def ended(self, job: Job) -> Job:
        """Wait for a job's end."""

        def terminal() -> Job | None:
            found = self.client.job(job.id)
            return found if found.is_terminal else None

        return until(terminal, what=f"{job.id} ends", within_s=_END_S_MAX)

    def output_of(self, job: Job) -> list[LogRecord]:
        """Return a job's complete output."""
        return list(self.client.follow_logs(job.id))

    def clear(self) -> None:
        """End every job."""
        self.open_gate()
        for job_id in self._job_ids:
            with contextlib.suppress(ApiError):  # most have ended by themselves
                asked = self.client.cancel_job(job_id, reason="the test is over")
                if not asked.is_terminal:
                    self.ended(asked)


def is_running(pid: int) -> bool:
    """Return whether a process lives; programs write so of one another, too."""
    return Path(f"/proc/{pid}").exists()
