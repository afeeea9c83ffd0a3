"""What became of each accepted job: its end, its output and its starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Final

import httpx
from modelyard.client import ApiError, Client, Job
from typing_extensions import override

from tests.e2e.faults.load import Load
from tests.support.eventually import is_within

QUIET_S_MAX: Final = 120.0
"""From the last submission until everything has ended and all output is stored."""
_LINES_MAX: Final = 1000
_ANSWER_MAX: Final = 300
MARK: Final = "output may be missing here: nobody saw the container end"


@dataclass(frozen=True, slots=True)
class Interval:
    """When the engine was stopped: from when it was asked to end until it was started again."""

    began_at: datetime
    over_at: datetime

    def overlaps(self, job: Job) -> bool:
        """Return whether a job that has ended ran meanwhile, at least at times."""
        if job.started_at is None or job.ended_at is None:
            return False
        return job.started_at < self.over_at and job.ended_at > self.began_at


@dataclass(frozen=True, slots=True)
class Outcome:
    """One job after the fault; `job` is None if the platform does not know it."""

    job_id: str
    job: Job | None
    output: Sequence[str] | None
    """None if it was never complete."""
    expected_output: Sequence[str]
    start_count: int
    stopped: Interval | None = None
    """When the engine was stopped, if it was: it knows not all of a container that ended then."""
    last_answer: str = ""
    """To the question for its output."""

    @property
    def is_finished(self) -> bool:
        """Whether it did what it was submitted for."""
        return self.job is not None and self.job.state == "SUCCEEDED"

    @property
    def is_stuck(self) -> bool:
        """Whether it, or its output, would never end."""
        return self.job is not None and (not self.job.is_terminal or self.output is None)

    @property
    def is_lost(self) -> bool:
        """Whether it, its work or part of its output is gone."""
        if self.job is None:
            return True
        return not self.is_stuck and not self.is_marked and not self._is_whole

    @property
    def is_marked(self) -> bool:
        """Whether it ended while its engine was stopped, and its output ends by saying so.

        Before the mark stands what it printed first. If the engine does not know how it ended, the
        job is lost and says that, too; any other end than these two is the fault's doing.
        """
        if self.job is None or self.stopped is None or not self.stopped.overlaps(self.job):
            return False
        if not self.output or self.output[-1] != MARK:
            return False
        failure, printed = self.job.failure, self.output[:-1]
        is_end_told = self.is_finished or (
            failure is not None and (failure.reason, failure.exit_code) == ("lost", None)
        )
        return is_end_told and printed == self.expected_output[: len(printed)]

    @property
    def _is_whole(self) -> bool:
        return self.is_finished and self.output == self.expected_output

    @property
    def is_harmed(self) -> bool:
        """Whether the fault did anything to it but delay it, as far as can be told."""
        return self.is_lost or self.is_stuck or self.start_count > 1 or self.is_unheard

    @property
    def is_unheard(self) -> bool:
        """Whether it ran and nobody heard it start: then nobody knows how often it did."""
        return self.is_finished and self.start_count == 0

    @override
    def __str__(self) -> str:
        """Return all that there is to know, for a test that fails."""
        if self.job is None:
            return f"{self.job_id}: unknown, started {self.start_count} times"
        return (
            f"{self.job_id}: {self.job.state} {self.job.reason} {self.job.failure}, attempt "
            f"{self.job.attempt_number}, started {self.start_count} times, {self._said()}"
        )

    def _said(self) -> str:
        if self.output is None:
            return f"output never complete: {self.last_answer}"
        missing = [line for line in self.expected_output if line not in self.output]
        return f"{len(self.output)} lines to {self.output[-1:]}, missing {missing}"


def outcomes_of(load: Load, http: httpx.Client, *, stopped: Interval | None) -> list[Outcome]:
    """Wait until all accepted jobs have ended, bounded, and tell what became of each one."""
    waiting = _Waiting(load.client, http, set(load.accepted))
    is_within(waiting.is_over, within_s=QUIET_S_MAX)  # what is stuck shows as such
    counts = load.starts.counts()
    return [
        Outcome(
            job_id,
            waiting.jobs.get(job_id),
            waiting.outputs.get(job_id),
            load.expected_output(job_id),
            counts.get(job_id, 0),
            stopped,
            waiting.answers.get(job_id, "not asked for"),
        )
        for job_id in load.accepted
    ]


class _Waiting:
    """Jobs that have not ended, or whose output is not complete."""

    def __init__(self, client: Client, http: httpx.Client, job_ids: set[str]) -> None:
        self.jobs: dict[str, Job] = {}
        self.outputs: dict[str, Sequence[str]] = {}
        self.answers: dict[str, str] = {}
        self._client = client
        self._http = http
        self._left = job_ids

    def is_over(self) -> bool:
        """Look once at each job that is left."""
        for job_id in tuple(self._left):
            try:
                self._look(job_id)
            except ApiError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
        return not self._left

    def _look(self, job_id: str) -> None:
        job = self.jobs[job_id] = self._client.job(job_id)
        if not job.is_terminal:
            return
        answer = self._http.get(f"/v1/jobs/{job_id}/logs", params={"limit": _LINES_MAX})
        self.answers[job_id] = f"{answer.status_code} {answer.text[:_ANSWER_MAX]}"
        if answer.is_success and answer.json()["is_complete"]:
            self.outputs[job_id] = [record["text"] for record in answer.json()["records"]]
            self._left.discard(job_id)
