"""Following a job to its end: its output, and meanwhile what that waits for.

Always holds: once a job has ended, its output is waited for through `_LOOKS_AFTER_END_MAX` quiet
whiles; then who follows is told that it is not complete. Whoever follows a job asks for it through
two minutes in which nobody can tell what it is at, from the first look on. One that was seen goes
on whatever the platform answers: whoever gives up is told how to follow it again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Final, TypeVar

import click
from modelyard.cli.reasons import SUBMITTED
from modelyard.client import AWAY_S_MIN, ApiError, Client, ConnectionFailed, Job, LogRecord

_NOT_FOUND: Final = 404
_END_POLLS_MAX: Final = 300
_END_POLL_S: Final = 0.1
_BEFORE_RUNNING: Final = frozenset({"QUEUED", "ADMITTED", "STARTING"})
QUIET_POLLS: Final = 20
QUIET_POLL_S: Final = 0.25
WAIT_POLL_S: Final = 2.0
_LOOKS_AFTER_END_MAX: Final = 4
"""At a job that has ended, one each 10 s, before the rest of its output is given up."""


T = TypeVar("T")
Failure = ApiError | ConnectionFailed


def followed(client: Client, job: Job) -> Iterator[LogRecord]:
    """Yield a job's output as it comes, until it is complete, or can't be expected any more."""
    _tell_what_it_waits_for(client, job)
    yield from output_of(client, job.id)


def output_of(
    client: Client, job_id: str, *, after: str = "", task: int | None = None
) -> Iterator[LogRecord]:
    """Yield the output of a job that was seen, until it is complete, or no more can be expected.

    The latter is told, and so is what quiet output waits for. Begins after a position.
    """
    quiet = _Quiet(client, job_id)
    records = client.follow_logs(
        job_id, after=after, is_known=True, on_quiet=quiet.is_worth_waiting, task=task
    )
    try:
        for record in records:
            after = record.position
            yield record
    except (ApiError, ConnectionFailed) as error:
        _tell_how_to_go_on(job_id, error, after=after)
        raise


def ended(client: Client, job_id: str) -> Job:
    """Return the job once it is terminal: its output may be complete a moment before that."""
    job = seen(client, job_id)
    for _ in range(_END_POLLS_MAX):
        if job.is_terminal:
            break
        client.sleep(_END_POLL_S)
        job = seen(client, job_id)
    return job


def asked_on(client: Client, look: Callable[[], T], tell: Callable[[Failure], None]) -> T:
    """Return what a look finds, also where nobody can tell for a while; tell the first failure."""
    away_from_s, is_told = client.paused_s, False
    while True:
        try:
            return look()
        except (ApiError, ConnectionFailed) as error:
            if not error.is_passing or client.paused_s - away_from_s >= AWAY_S_MIN:
                raise
            if not is_told:
                tell(error)
                is_told = True
        client.pause(WAIT_POLL_S)


def first_seen(client: Client, job_id: str, look: Callable[[], T]) -> T:
    """Return what a look at a job finds, also where nobody can tell for a while."""

    def tell(error: Failure) -> None:
        said = f"what it is at can't be told: {error}; asking on"
        click.echo(f"job {job_id}: {said}", err=True)

    return asked_on(client, look, tell)


def seen(client: Client, job_id: str) -> Job:
    """Look at a job that was seen before, also where nobody can tell for a while."""
    try:
        return first_seen(client, job_id, lambda: client.job(job_id))
    except (ApiError, ConnectionFailed) as error:
        _tell_how_to_go_on(job_id, error)
        raise


def _tell_how_to_go_on(job_id: str, error: Failure, *, after: str = "") -> None:
    """Tell who gives up on a job that they can come again; not where there is none any more."""
    if isinstance(error, ApiError) and error.status == _NOT_FOUND:
        return
    position = f" --after {after}" if after else ""
    click.echo(f"the job goes on; to follow it: modelyard job logs -f {job_id}{position}", err=True)


def _tell_what_it_waits_for(client: Client, job: Job) -> None:
    """Tell why there is no output yet, and again when that changes; nothing where it comes soon.

    What a job prints meanwhile is kept, and followed next: as soon as its first attempt has begun,
    also where that is over by then and the job waits for another one.
    """
    told = ""
    for pause_s in chain(repeat(QUIET_POLL_S, QUIET_POLLS), repeat(WAIT_POLL_S)):
        attempts_over = job.attempt_number - (job.state != "QUEUED")
        if job.state not in _BEFORE_RUNNING or attempts_over > 0:
            return
        if pause_s == WAIT_POLL_S and (why := _why_it_waits(job)) != told:
            click.echo(f"job {job.id} {why}", err=True)
            told = why
        client.sleep(pause_s)
        job = seen(client, job.id)


def _why_it_waits(job: Job) -> str:
    is_in_line = (job.state, job.reason) == ("QUEUED", SUBMITTED)
    explained = f"it stands in line; why: modelyard job explain {job.id}"
    return f"{job.state}: {explained if is_in_line else job.reason}"


@dataclass(slots=True)
class _Quiet:
    """Looks at a job that prints nothing, and tells what it finds, once a change."""

    client: Client
    job_id: str
    _told: str = ""
    _looks_after_end: int = 0

    def is_worth_waiting(self) -> bool:
        """Tell what the job is at; return whether more of its output is to be expected."""
        try:
            job = self.client.job(self.job_id)
        except (ApiError, ConnectionFailed) as error:
            self._tell(f"no output, and what the job is at can't be told: {error}")
            return True
        self._looks_after_end += job.is_terminal
        if self._looks_after_end >= _LOOKS_AFTER_END_MAX:
            self._tell(
                "its output is not complete, and no more comes; "
                f"what comes later: modelyard job logs {job.id}"
            )
            return False
        since = "has ended, its output is not complete" if job.is_terminal else "prints nothing"
        self._tell(f"{since} ({_why_it_waits(job)})")
        return True

    def _tell(self, what: str) -> None:
        if what != self._told:
            click.echo(f"job {self.job_id} {what}{self._what_ails()}", err=True)
            self._told = what

    def _what_ails(self) -> str:
        """Return what the platform says that it can't reach, such as Kafka."""
        try:
            report = self.client.readiness()
        except ConnectionFailed as error:
            return f"; {error}"
        answers = report.get("checks", {}) | report.get("advisories", {})
        return "".join(f"; {name}: {say}" for name, say in sorted(answers.items()) if say != "ok")
