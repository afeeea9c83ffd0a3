"""What became of all that was accepted while services died.

Owns: what counts as lost, doubled and stuck. It asks the platform as a user, reads what was told on
Kafka from the first record on, and looks into the services' databases for what is still to be sent.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg
from modelyard.client import ApiError, Client, Job, JobAttempt

from tests.e2e.crash.work import MODEL, Accepted, Work
from tests.e2e.platform import SERVICES, Platform
from tests.e2e.told import VERSIONS, Told, disorder_in, told_by
from tests.support.eventually import eventually, is_within

QUIET_S_MAX: Final = 150.0
"""From the last start of a service until everything has ended."""
_JOBS: Final = "modelyard.job.lifecycle.v1"
_UNSENT: Final = "SELECT count(*) FROM outbox WHERE published_at IS NULL"
_OPEN: Final = "SELECT count(*) FROM attempt WHERE state IN ('CREATED', 'STARTED')"
_INCOMPLETE: Final = "SELECT count(*) FROM log_stream WHERE state <> 'completed'"


@dataclass(slots=True)
class Verdict:
    """Sentences, one for each thing that is not as promised."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        """Return all of them."""
        return [*self.lost, *self.doubled, *self.stuck, *self.disordered]


async def judged(platform: Platform, work: Work, client: Client) -> Verdict:
    """Wait for quiet, bounded, and judge."""
    verdict = Verdict()
    accepted = _ended(work.accepted, client, verdict)
    elements = _judge_arrays(client, accepted, verdict)
    jobs = {job.id: job for job in accepted.values() if not job.is_array} | elements
    _judge_starts(work, jobs, verdict)
    _judge_tasks(client, jobs, verdict)
    _judge_keys(work, client, accepted, verdict)
    _judge_outputs(work, client, jobs, verdict)
    _judge_capacity(client, verdict)
    for service in SERVICES:
        await _judge_rows(platform, service, verdict)
    for topic in VERSIONS:
        told = await told_by(platform, topic)
        for key, records in told.items():
            verdict.disordered += disorder_in(records, whose=f"{topic} {key}")
        if topic == _JOBS:
            verdict.lost += [
                f"{job.id} is at version {job.version}, told is {len(_ids(told.get(job.id, ())))}"
                for job in {**accepted, **jobs}.values()
                if len(_ids(told.get(job.id, ()))) != job.version
            ]
    return verdict


def _ids(told: Sequence[Told]) -> set[str]:
    return {each.event_id for each in told}


def _ended(accepted: Sequence[Accepted], client: Client, verdict: Verdict) -> dict[str, Job]:
    jobs: dict[str, Job] = {}
    # A tenant that is deleted takes its jobs along.
    waiting = {each.id: each for each in accepted if "GONE" not in each.ends}

    def is_quiet() -> bool:
        for job_id in list(waiting):
            try:
                found = client.job(job_id)
            except ApiError as error:
                verdict.lost.append(f"{job_id}: {error.code}")
                del waiting[job_id]
                continue
            if found.is_terminal:
                jobs[job_id] = found
                if found.state not in waiting.pop(job_id).ends:
                    verdict.lost.append(f"{job_id} {found.state}: {found.reason} {found.failure}")
        return not waiting

    is_within(is_quiet, within_s=QUIET_S_MAX)
    for job_id in waiting:
        found = client.job(job_id)
        verdict.stuck.append(f"{job_id} is {found.state}: {found.reason}")
    return jobs


def _judge_arrays(client: Client, accepted: dict[str, Job], verdict: Verdict) -> dict[str, Job]:
    """Each index is one job, and all have ended with their array; return those."""
    found: dict[str, Job] = {}
    for array in accepted.values():
        if not array.is_array:
            continue
        elements = client.jobs(array=array.id)
        found |= {job.id: job for job in elements}
        indices = sorted(job.element.index for job in elements if job.element is not None)
        if indices != list(range(len(indices))):
            verdict.doubled.append(f"{array.id} has elements {indices}")
        states = {job.state for job in elements}
        is_whole = len(indices) == array.spec.array_size and states == {"SUCCEEDED"}
        if array.state == "SUCCEEDED" and not is_whole:
            verdict.lost.append(f"{array.id} has succeeded, of its elements {indices} {states}")
        verdict.stuck += [
            f"{job.id} of {array.id} is {job.state}" for job in elements if not job.is_terminal
        ]
    return found


def _judge_starts(work: Work, jobs: dict[str, Job], verdict: Verdict) -> None:
    for job in jobs.values():
        starts = [(start.attempt, start.task) for start in work.started(job.id)]
        newest = max((attempt for attempt, _ in starts), default=0)
        if len(set(starts)) < len(starts) or newest > job.attempt_number:
            verdict.doubled.append(f"{job.id} of {job.attempt_number} attempts began {starts}")
        last = {task for attempt, task in starts if attempt == job.attempt_number}
        if job.state == "SUCCEEDED" and last != set(range(job.spec.tasks)):
            verdict.lost.append(f"{job.id} succeeded and began {starts}")


def _judge_tasks(client: Client, jobs: dict[str, Job], verdict: Verdict) -> None:
    """All tasks of a job have their places before one starts, and end before the job comes back."""
    for job in jobs.values():
        if job.spec.tasks == 1:
            continue
        goes: dict[int, list[JobAttempt]] = defaultdict(list)
        for attempt in client.attempts(job.id):
            goes[attempt.number].append(attempt)
        ended_at = None
        for number, tasks in sorted(goes.items()):
            whose, found = f"attempt {number} of {job.id}", sorted(each.task for each in tasks)
            if found != list(range(job.spec.tasks)):
                verdict.disordered.append(f"{whose} began with tasks {found}")
            placed = [each.created_at for each in tasks]
            starts = [each.started_at for each in tasks if each.started_at is not None]
            if starts and min(starts) < max(placed):
                verdict.disordered.append(f"{whose} was placed at {placed}, started at {starts}")
            if ended_at is not None and min(placed) < ended_at:
                verdict.disordered.append(f"{whose} began before the one before it had ended")
            ends = [each.ended_at for each in tasks if each.ended_at is not None]
            if len(ends) < len(tasks):
                verdict.stuck.append(f"{whose} has tasks that have not ended")
            ended_at = max(ends, default=ended_at)


def _judge_keys(work: Work, client: Client, jobs: dict[str, Job], verdict: Verdict) -> None:
    """Ask for each job again with its key: the answer is the same job, or one was made twice."""
    for each in work.accepted:
        if each.id not in jobs:
            continue
        again = client.submit_job(each.spec, idempotency_key=each.key)
        if again.id != each.id:
            verdict.doubled.append(f"{each.id} was made again as {again.id}")


def _judge_outputs(work: Work, client: Client, jobs: dict[str, Job], verdict: Verdict) -> None:
    """Each job that left a model has one version of it."""
    due = {job.id for job in jobs.values() if job.spec.outputs and job.state == "SUCCEEDED"}
    counts: Counter[str] = Counter()

    def are_registered() -> bool:
        counts.clear()
        counts.update(version.job_id for version in client.model_versions(MODEL))
        return due <= counts.keys()

    if due and not is_within(are_registered, within_s=QUIET_S_MAX):
        verdict.lost += [f"the output of {job_id}" for job_id in due - counts.keys()]
    verdict.doubled += [
        f"the output of {job_id} is {counts[job_id]} versions"
        for job_id in due
        if counts[job_id] > 1
    ]


def _judge_capacity(client: Client, verdict: Verdict) -> None:
    if not is_within(
        lambda: all(node.used.cpu_millicores == 0 for node in client.nodes()), within_s=QUIET_S_MAX
    ):
        verdict.stuck.append(f"booked for nobody: {[node.used for node in client.nodes()]}")


async def _judge_rows(platform: Platform, service: str, verdict: Verdict) -> None:
    queries = [_UNSENT]
    queries += [_OPEN] if service == "scheduler" else []
    queries += [_INCOMPLETE] if service == "log_collector" else []
    url = platform.environment_of(service)["MODELYARD_POSTGRES__URL"]
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg", "postgresql"))
    try:
        for query in queries:

            async def is_none(query: str = query) -> bool:
                return not await connection.fetchval(query)

            try:
                await eventually(is_none, what=query, within_s=QUIET_S_MAX)
            except AssertionError:
                count = await connection.fetchval(query)
                verdict.stuck.append(f"{service}: {count} by {query}")
    finally:
        await connection.close()
