"""The checker of histories: a good one passes, and each bad one breaks the rule that it is to."""

from dataclasses import replace

import pytest

from services.scheduler.domain.jobs.job import JobState
from tests.support.history import (
    Anomaly,
    Answered,
    Asked,
    Call,
    Event,
    History,
    Rule,
    Seen,
    anomalies_in,
)

S = JobState
WALK = (S.QUEUED, S.ADMITTED, S.STARTING, S.RUNNING, S.SUCCEEDED)


def shown(
    version: int,
    at: float,
    *,
    state: JobState | None = None,
    asked: Asked = Asked.SHOW,
    key: str = "",
    job_id: str = "job_1",
    lasts: float = 1.0,
) -> Call:
    """An answer that shows a job at a version, and a state that fits it."""
    seen = Seen(job_id, version, state or WALK[version - 1])
    return Call(0, asked, at, at + lasts, Answered.DONE, [seen], key=key, job_id=job_id)


def submitted(at: float, *, key: str = "key-1", job_id: str = "job_1") -> Call:
    return shown(1, at, asked=Asked.SUBMIT, key=key, job_id=job_id)


def told(*states: JobState, job_id: str = "job_1", key: str = "key-1") -> list[Event]:
    return [
        Event(f"evt_{job_id}_{version}", job_id, key, version, state)
        for version, state in enumerate(states, 1)
    ]


GOOD = History(
    calls=[submitted(0), submitted(2), shown(2, 4), shown(4, 6), shown(5, 9)],
    events=told(*WALK),
    starts={"job_1": [1]},
    effects={"job_1": {"model": 1}},
    due_effects={"job_1": frozenset({"model"})},
)


def rules_broken(history: History) -> set[Rule]:
    return {anomaly.rule for anomaly in anomalies_in(history)}


def test_a_history_as_it_should_be_has_no_anomaly() -> None:
    assert anomalies_in(GOOD) == []


def test_what_overlaps_may_be_seen_in_either_order() -> None:
    calls = [submitted(0), shown(4, 5, lasts=10), shown(2, 6, lasts=2), shown(5, 20)]
    assert anomalies_in(replace(GOOD, calls=calls)) == []


def test_an_unanswered_submission_may_have_made_its_job_or_not() -> None:
    for made in ([], told(S.QUEUED, S.CANCELLED, job_id="job_2", key="key-2")):
        lost = Call(1, Asked.SUBMIT, 1, 6, Answered.UNKNOWN, key="key-2")
        history = replace(GOOD, calls=[*GOOD.calls, lost], events=[*GOOD.events, *made])
        assert anomalies_in(history) == []


def test_an_event_that_is_sent_again_tells_nothing_new() -> None:
    events = [*GOOD.events[:3], *GOOD.events[1:]]
    assert anomalies_in(replace(GOOD, events=events)) == []


def test_absent_before_it_was_accepted_is_no_loss() -> None:
    early = Call(1, Asked.SHOW, 0, 0.5, Answered.ABSENT, job_id="job_1")
    assert anomalies_in(replace(GOOD, calls=[early, *GOOD.calls])) == []


@pytest.mark.parametrize(
    ("rule", "history"),
    [
        (Rule.ONE_JOB_A_KEY, replace(GOOD, calls=[*GOOD.calls, submitted(3, job_id="job_2")])),
        (Rule.ONE_JOB_A_KEY, replace(GOOD, calls=[*GOOD.calls, submitted(3, key="key-2")])),
        (
            Rule.ONE_JOB_A_KEY,
            replace(GOOD, events=[*GOOD.events, *told(S.QUEUED, S.CANCELLED, job_id="job_2")]),
        ),
        (
            Rule.NEVER_LOST,
            replace(
                GOOD,
                calls=[*GOOD.calls, Call(1, Asked.SHOW, 5, 6, Answered.ABSENT, job_id="job_1")],
            ),
        ),
        (Rule.NEVER_LOST, replace(GOOD, events=[])),
        (Rule.NEVER_BACK, replace(GOOD, calls=[*GOOD.calls, shown(3, 8)])),
        (
            Rule.NEVER_BACK,
            replace(
                GOOD,
                calls=[
                    *GOOD.calls,
                    Call(2, Asked.LIST, 11, 12, Answered.DONE, [Seen("job_1", 4, S.RUNNING)]),
                ],
            ),
        ),
        (Rule.ONE_STATE_A_VERSION, replace(GOOD, calls=[*GOOD.calls, shown(4, 6, state=S.FAILED)])),
        (Rule.LEGAL_MOVES, replace(GOOD, events=told(S.QUEUED, S.RUNNING, S.SUCCEEDED), calls=[])),
        (Rule.LEGAL_MOVES, replace(GOOD, events=told(*WALK, S.FAILED))),
        (Rule.ONE_END, replace(GOOD, events=told(*WALK[:4]), calls=GOOD.calls[:3])),
        (
            Rule.CANCELLED_FOR_GOOD,
            History(
                [shown(3, 0, state=S.STOPPING, asked=Asked.CANCEL)],
                told(S.QUEUED, S.ADMITTED, S.STOPPING, S.FAILED),
            ),
        ),
        (Rule.EVENTS_IN_ORDER, replace(GOOD, events=[*GOOD.events[:2], *GOOD.events[3:]])),
        (
            Rule.EVENTS_IN_ORDER,
            replace(
                GOOD, events=[*GOOD.events[:2], GOOD.events[3], GOOD.events[2], GOOD.events[4]]
            ),
        ),
        (Rule.EVENTS_IN_ORDER, replace(GOOD, events=GOOD.events[:4])),
        (
            Rule.EVENTS_IN_ORDER,  # the same fact as two events
            replace(GOOD, events=[*GOOD.events, replace(GOOD.events[4], event_id="evt_other")]),
        ),
        (Rule.STARTED_ONCE, replace(GOOD, starts={"job_1": [1, 1]})),
        (Rule.EFFECT_ONCE, replace(GOOD, effects={"job_1": {"model": 2}})),
        (Rule.EFFECT_ONCE, replace(GOOD, effects={})),
        (Rule.EFFECT_ONCE, replace(GOOD, due_effects={})),
    ],
)
def test_a_history_that_breaks_a_rule_is_told_of(rule: Rule, history: History) -> None:
    assert rule in rules_broken(history)


def test_every_rule_is_broken_by_some_history_above() -> None:
    mark = next(
        mark
        for mark in test_a_history_that_breaks_a_rule_is_told_of.pytestmark  # type: ignore[attr-defined]
        if mark.name == "parametrize"
    )
    assert {rule for rule, _ in mark.args[1]} == set(Rule)


def test_an_anomaly_names_the_job() -> None:
    [anomaly] = anomalies_in(replace(GOOD, starts={"job_1": [1, 1]}))
    assert anomaly == Anomaly(Rule.STARTED_ONCE, "job_1: [1, 1]")
