"""Clients that submit, cancel and look at jobs at once, and note each question and its answer.

Owns: what is asked, by a seed; what an answer is taken for. The client is the SDK without its
retries: a question that got no answer stays one in the record, and is asked again as another.

Always holds: a key that was used once may be used again by any client until the end.
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Final

from modelyard.client import (
    ApiError,
    Client,
    ConnectionFailed,
    Job,
    JobOutput,
    JobSpec,
    JobTimeouts,
    Resources,
)

from services.scheduler.domain.jobs.job import JobState
from tests.e2e.platform import Platform
from tests.support.history import Answered, Asked, Call, Seen

MODEL: Final = "history"
OUTPUT: Final = "model"
CLIENT_COUNT: Final = 5
_ANSWER_S_MAX: Final = 6.0
_LISTED_MAX: Final = 20
_OPEN_MAX: Final = 12
"""Jobs that may be under way; at more, clients look only."""
_JOBS_MAX: Final = 10_000
_WEIGHTS: Final = {Asked.SHOW: 70, Asked.LIST: 10, Asked.SUBMIT: 14, Asked.CANCEL: 4}
_NEW_SHARE: Final = 0.5
"""Of submissions; the others are ones that somebody has made before."""
_PROGRAM: Final = """
import os, pathlib, time
job_id, attempt = os.environ["MODELYARD_JOB_ID"], os.environ["MODELYARD_ATTEMPT"]
with (pathlib.Path(os.environ["STARTS"]) / job_id).open("a") as starts:
    starts.write(attempt + "\\n")
time.sleep(float(os.environ["LASTS_S"]))
(pathlib.Path(os.environ["MODELYARD_OUTPUTS"]) / "model.txt").write_text(job_id)
"""


@dataclass(slots=True)
class Clients:
    """All clients of one run, and what they have noted."""

    platform: Platform
    starts: Path
    """A folder with a file a job, a line a start."""
    seed: int
    calls: list[Call] = field(default_factory=list)
    made: dict[str, JobSpec] = field(default_factory=dict)
    """What was submitted, by key, answered or not."""
    job_ids: list[str] = field(default_factory=list)
    """Jobs that an answer has named."""
    open_count: int = 0
    """Jobs that were under way when somebody last listed them."""
    refused: Counter[str] = field(default_factory=Counter)
    mistakes: list[str] = field(default_factory=list)
    """Answers that nobody may be given."""

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Ask while the block runs."""
        over = threading.Event()
        with ThreadPoolExecutor(max_workers=CLIENT_COUNT) as pool:
            asking = [pool.submit(self._ask_on, number, over) for number in range(CLIENT_COUNT)]
            try:
                yield
            finally:
                over.set()
                for each in asking:
                    each.result()

    def settle(self, client: Client) -> None:
        """Find out what became of each submission; note it as any other question's answer."""
        for key, spec in self.made.items():
            self._note(CLIENT_COUNT, Asked.SUBMIT, _submission(client, key, spec), key=key)

    def is_quiet(self, client: Client) -> bool:
        """Look once at each job, and return whether all have ended."""
        shown = [
            self._note(CLIENT_COUNT, Asked.SHOW, _showing(client, job_id), job_id=job_id)
            for job_id in set(self.job_ids)
        ]
        return all(seen.state in ENDS for call in shown for seen in call.seen)

    def _ask_on(self, number: int, over: threading.Event) -> None:
        chance = Random(f"{self.seed}/{number}")
        with self.platform.client(tries_max=1, timeout_s=_ANSWER_S_MAX) as client:
            while not over.is_set():
                call = self._ask(number, client, chance)
                # Who is told nothing does not ask again at once.
                over.wait(0.5 if call.answered is Answered.UNKNOWN else 0.01)

    def _ask(self, number: int, client: Client, chance: Random) -> Call:
        [asked] = chance.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))
        if asked is Asked.SUBMIT and (submission := self._some_submission(number, chance)):
            key, spec = submission
            return self._note(number, asked, _submission(client, key, spec), key=key)
        known = self.job_ids[-3 * _OPEN_MAX :]
        if asked is Asked.LIST or not known:
            call = self._note(number, Asked.LIST, _listing(client))
            if call.answered is Answered.DONE:
                self.open_count = sum(seen.state not in ENDS for seen in call.seen)
            return call
        job_id = chance.choice(known)
        if asked is Asked.CANCEL:
            return self._note(number, asked, _cancelling(client, job_id), job_id=job_id)
        return self._note(number, Asked.SHOW, _showing(client, job_id), job_id=job_id)

    def _some_submission(self, number: int, chance: Random) -> tuple[str, JobSpec] | None:
        """Return a new submission, or one that was made before, maybe by another client."""
        if not self.made or chance.random() < _NEW_SHARE:
            if self.open_count >= _OPEN_MAX or len(self.made) >= _JOBS_MAX:
                return None
            key = f"history-{self.seed}-{number}-{len(self.calls)}"
            self.made[key] = self._some_spec(key, chance)
            return key, self.made[key]
        key = chance.choice(list(self.made)[-_OPEN_MAX:])
        return key, self.made[key]

    def _some_spec(self, key: str, chance: Random) -> JobSpec:
        lasts_s = chance.choice((0, 0, 0, 1, 5))
        outputs = [JobOutput(name=OUTPUT, path="model.txt", register_as=MODEL)]
        return JobSpec(
            name=key,
            image="modelyard/base",
            command=["python", "-c", _PROGRAM],
            env={"STARTS": str(self.starts), "LASTS_S": str(lasts_s)},
            outputs=outputs if chance.random() < 0.5 else [],
            resources=Resources(cpu_millicores=500, memory_bytes=64 << 20),
            timeouts=JobTimeouts(run=timedelta(minutes=2), stop_grace=timedelta(seconds=1)),
        )

    def _note(
        self,
        number: int,
        asked: Asked,
        ask: Callable[[], list[Job]],
        *,
        key: str = "",
        job_id: str = "",
    ) -> Call:
        began_at, seen = time.monotonic(), []
        try:
            jobs, answered = ask(), Answered.DONE
            seen = [Seen(job.id, job.version, JobState(job.state)) for job in jobs]
        except ApiError as error:
            answered = self._meaning_of(error)
        except ConnectionFailed:
            answered = Answered.UNKNOWN
        call = Call(
            number, asked, began_at, time.monotonic(), answered, seen, key=key, job_id=job_id
        )
        if asked is Asked.SUBMIT:
            self.job_ids += [each.job_id for each in seen if each.job_id not in self.job_ids]
        self.calls.append(call)
        return call

    def _meaning_of(self, error: ApiError) -> Answered:
        self.refused[f"{error.status} {error.code}"] += 1
        if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.mistakes.append(str(error.problem))
        if error.status == HTTPStatus.NOT_FOUND:
            return Answered.ABSENT
        return (
            Answered.UNKNOWN
            if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
            else (Answered.REFUSED)
        )


ENDS: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


def _submission(client: Client, key: str, spec: JobSpec) -> Callable[[], list[Job]]:
    return lambda: [client.submit_job(spec, idempotency_key=key)]


def _showing(client: Client, job_id: str) -> Callable[[], list[Job]]:
    return lambda: [client.job(job_id)]


def _cancelling(client: Client, job_id: str) -> Callable[[], list[Job]]:
    return lambda: [client.cancel_job(job_id, reason="changed my mind")]


def _listing(client: Client) -> Callable[[], list[Job]]:
    return lambda: [
        job for job in client.jobs(limit=_LISTED_MAX) if job.spec.name.startswith("history-")
    ]
