"""What clients were told of jobs, beside what happened, and whether the two can be true together.

A job is a register: its versions count its moves, and each answer that shows it is a read. Clients
note when they asked and when they were answered; an answer is taken for true of some instant
between the two. What got no answer may have had its effect or not.

Owns: the rules. Leaves to its users where a history comes from: `tests/e2e/history` records one of
running services, `tests/simulation` one of services on virtual time.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Final

from services.scheduler.domain.jobs.job import ARRAY_TRANSITIONS, TRANSITIONS, JobState

TERMINAL: Final = frozenset(state for state, ways in TRANSITIONS.items() if not ways)


class Asked(StrEnum):
    """What a client asked for."""

    SUBMIT = "submit"
    CANCEL = "cancel"
    SHOW = "show"
    LIST = "list"


class Answered(StrEnum):
    """What came of it."""

    DONE = "done"
    ABSENT = "absent"
    """There is no such job."""
    REFUSED = "refused"
    """It had no effect, and the answer says so."""
    UNKNOWN = "unknown"
    """No answer came, or one that tells nothing: it may have had its effect."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A job as an answer shows it."""

    job_id: str
    version: int
    state: JobState


@dataclass(frozen=True, slots=True)
class Call:
    """One question of one client; instants by one clock, for all clients the same."""

    client: int
    asked: Asked
    began_at: float
    ended_at: float
    answered: Answered
    seen: Sequence[Seen] = ()
    """All jobs that the answer shows: one, but for a list."""
    key: str = ""
    """Idempotency key of a submission."""
    job_id: str = ""
    """What was cancelled or to be shown."""


@dataclass(frozen=True, slots=True)
class Event:
    """A fact, as readers of its topic find it."""

    event_id: str
    job_id: str
    key: str
    """Of the submission that made the job; the job bears it as its name."""
    version: int
    state: JobState


@dataclass(frozen=True, slots=True)
class History:
    """All of it, looked at once nothing moves any more."""

    calls: Sequence[Call]
    events: Sequence[Event]
    """In the order of each job's partition, repetitions and all."""
    starts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """By job: the attempt of each start of its program."""
    effects: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By job: how many versions there are of each output."""
    due_effects: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By job: the outputs that become versions if it succeeds."""
    array_ids: Collection[str] = ()
    """Those that are arrays, which move by a table of their own."""


class Rule(StrEnum):
    """What may not be."""

    ONE_JOB_A_KEY = "a key has two jobs"
    NEVER_LOST = "an accepted job is not there"
    NEVER_BACK = "a job was seen to go back"
    ONE_STATE_A_VERSION = "a version has two states"
    LEGAL_MOVES = "a job moved as none may"
    ONE_END = "a job has not one end"
    CANCELLED_FOR_GOOD = "a job that was being cancelled ended otherwise"
    EVENTS_IN_ORDER = "events have a gap, or are out of order"
    STARTED_ONCE = "an attempt was started twice"
    EFFECT_ONCE = "an output is not one version"


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A rule that a history breaks, and what of it does."""

    rule: Rule
    what: str


def anomalies_in(history: History) -> list[Anomaly]:
    """Return all that can't have happened, had the promises been kept."""
    return [
        *_keys(history),
        *_reads(history),
        *_states(history),
        *_events(history),
        *_effects(history),
    ]


def _keys(history: History) -> Iterator[Anomaly]:
    jobs_of = defaultdict[str, set[str]](set)
    keys_of = defaultdict[str, set[str]](set)
    made = [
        (call.key, seen.job_id)
        for call in history.calls
        if call.asked is Asked.SUBMIT
        for seen in call.seen
    ]
    for key, job_id in (*made, *((event.key, event.job_id) for event in history.events)):
        jobs_of[key].add(job_id)
        keys_of[job_id].add(key)
    for key, jobs in jobs_of.items():
        if len(jobs) > 1:
            yield Anomaly(Rule.ONE_JOB_A_KEY, f"{key}: {sorted(jobs)}")
    for job_id, keys in keys_of.items():
        if len(keys) > 1:
            yield Anomaly(Rule.ONE_JOB_A_KEY, f"{job_id} answers {sorted(keys)}")


def _reads(history: History) -> Iterator[Anomaly]:
    """An answer shows at least the version that any answer before its question has shown."""
    shown = defaultdict[str, list[tuple[float, int]]](list)
    asked = defaultdict[str, list[tuple[float, int | None]]](list)
    for call in history.calls:
        for seen in call.seen:
            shown[seen.job_id].append((call.ended_at, seen.version))
            asked[seen.job_id].append((call.began_at, seen.version))
        if call.answered is Answered.ABSENT and call.job_id:
            asked[call.job_id].append((call.began_at, None))
    for job_id, questions in asked.items():
        answers, known = sorted(shown[job_id]), 0
        place = 0
        for began_at, version in sorted(questions, key=lambda question: question[0]):
            while place < len(answers) and answers[place][0] < began_at:
                known = max(known, answers[place][1])
                place += 1
            if version is None and known:
                yield Anomaly(Rule.NEVER_LOST, f"{job_id}: absent after version {known}")
            if version is not None and version < known:
                yield Anomaly(Rule.NEVER_BACK, f"{job_id}: version {version} after {known}")


def _states(history: History) -> Iterator[Anomaly]:
    """All answers and events together tell of one walk through the states."""
    states = defaultdict[str, dict[int, set[JobState]]](lambda: defaultdict(set))
    for seen in _all_seen(history.calls):
        states[seen.job_id][seen.version].add(seen.state)
    for event in history.events:
        states[event.job_id][event.version].add(event.state)
    cancelled = {
        seen.job_id
        for call in history.calls
        if call.asked is Asked.CANCEL
        for seen in call.seen
        if seen.state is JobState.STOPPING
    }
    for job_id, by_version in states.items():
        told = f"{job_id}: {_walk(by_version)}"
        if any(len(each) > 1 for each in by_version.values()):
            yield Anomaly(Rule.ONE_STATE_A_VERSION, told)
            continue
        walk = [(version, min(by_version[version])) for version in sorted(by_version)]
        table = ARRAY_TRANSITIONS if job_id in history.array_ids else TRANSITIONS
        if not all(_leads(table, *before, *after) for before, after in pairwise(walk)):
            yield Anomaly(Rule.LEGAL_MOVES, told)
        if walk[-1][1] not in TERMINAL:
            yield Anomaly(Rule.ONE_END, told)
        elif job_id in cancelled and walk[-1][1] is not JobState.CANCELLED:
            yield Anomaly(Rule.CANCELLED_FOR_GOOD, told)


def _leads(
    table: Mapping[JobState, frozenset[JobState]],
    version: int,
    state: JobState,
    later: int,
    to: JobState,
) -> bool:
    ways = {state}
    for _ in range(later - version):
        ways = {way for each in ways for way in table[each]}
    return to in ways


def _events(history: History) -> Iterator[Anomaly]:
    by_job = defaultdict[str, dict[str, Event]](dict)
    for event in history.events:
        by_job[event.job_id].setdefault(event.event_id, event)  # readers go by the id
    newest: Counter[str] = Counter()
    for seen in _all_seen(history.calls):
        newest[seen.job_id] = max(newest[seen.job_id], seen.version)
    for job_id in by_job.keys() | newest.keys():
        versions = [event.version for event in by_job[job_id].values()]
        if not versions:
            yield Anomaly(Rule.NEVER_LOST, f"{job_id}: no event tells of it")
        elif versions != list(range(1, max(versions[-1], newest[job_id]) + 1)):
            yield Anomaly(Rule.EVENTS_IN_ORDER, f"{job_id}: {versions}, seen at {newest[job_id]}")


def _effects(history: History) -> Iterator[Anomaly]:
    ends = {event.job_id: event.state for event in history.events if event.state in TERMINAL}
    for job_id, attempts in history.starts.items():
        if len(set(attempts)) < len(attempts):
            yield Anomaly(Rule.STARTED_ONCE, f"{job_id}: {list(attempts)}")
    for job_id in history.effects.keys() | history.due_effects.keys():
        has_succeeded = ends.get(job_id) is JobState.SUCCEEDED
        due = history.due_effects.get(job_id, frozenset()) if has_succeeded else frozenset()
        found = history.effects.get(job_id, {})
        if dict(found) != dict.fromkeys(due, 1):
            yield Anomaly(Rule.EFFECT_ONCE, f"{job_id}: {dict(found)}, due {sorted(due)}")


def _all_seen(calls: Iterable[Call]) -> Iterator[Seen]:
    return (seen for call in calls for seen in call.seen)


def _walk(by_version: Mapping[int, Iterable[JobState]]) -> str:
    return ", ".join(
        f"{version} {'/'.join(sorted(by_version[version]))}" for version in sorted(by_version)
    )
