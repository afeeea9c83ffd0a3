"""Runs on virtual time, read as histories: nothing is found in the product's, the inbox off is.

Clients tell here only which job they were given for a key; what happened is read from the databases
and the broker, as the end-to-end check reads it from the platform.
"""

from collections import Counter, defaultdict

import pytest
from modelyard.scheduler.v1 import job_events_pb2, job_pb2

from services.chassis.events.envelope import from_record
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.entrypoints.facts import JOB_LIFECYCLE
from tests.simulation.checkers import Checkers
from tests.simulation.planted import PLANTED
from tests.simulation.registry_store import VERSIONS
from tests.simulation.run import simulate
from tests.simulation.scheduler_store import JOBS
from tests.simulation.world import Made, World
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

SEEDS = range(50)


def history_of(world: World) -> History:
    """Read what happened in a world."""
    events, effects = [], defaultdict[str, Counter[str]](Counter)
    for record in world.broker.records(JOB_LIFECYCLE):
        event = from_record(record)
        fact = job_events_pb2.JobTransitioned.FromString(event.data)
        state = JobState(job_pb2.JobState.Name(fact.state).removeprefix("JOB_STATE_"))
        name = f"{fact.tenant}/{fact.name}"
        if fact.HasField("element"):  # nobody has asked for it by itself
            name += f"/{fact.element.index}"
        events.append(Event(event.id, fact.job_id, name, fact.version, state))
    for version in world.registry.rows(VERSIONS).values():
        if (lineage := version.content.lineage) is not None:
            effects[lineage.job_id][lineage.output_name] += 1
    accepted = [Seen(job_id, 1, JobState.QUEUED) for job_id in world.checkers.accepted.values()]
    return History(
        calls=[
            Call(0, Asked.SUBMIT, 0.0, 0.0, Answered.DONE, [seen], key=key)
            for key, seen in zip(world.checkers.accepted, accepted, strict=True)
        ],
        events=events,
        effects=effects,
        due_effects={
            job_id: frozenset(output.name for output in row.job.spec.outputs if output.register_as)
            for job_id, row in world.scheduler.rows(JOBS).items()
            if not row.job.is_array
        },
        array_ids={
            job_id for job_id, row in world.scheduler.rows(JOBS).items() if row.job.is_array
        },
    )


def anomalies_of(seed: int, made: Made) -> list[Anomaly]:
    """Run a world to its end and look at what happened."""
    found: list[Anomaly] = []
    outcome = simulate(
        seed, made=made, look=lambda world: found.extend(anomalies_in(history_of(world)))
    )
    assert outcome.violation is None, outcome.told
    return found


def test_products_histories_have_no_anomaly() -> None:
    assert [anomaly for seed in SEEDS[:10] for anomaly in anomalies_of(seed, Made())] == []


@pytest.mark.timeout(600)
def test_history_without_an_inbox_has_an_output_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the history alone: who looks at each step would end the run where it finds the same."""
    monkeypatch.setattr(Checkers, "_is_registered_once", lambda *_, **__: None)
    found = next(found for seed in SEEDS if (found := anomalies_of(seed, PLANTED["inbox off"])))
    assert {anomaly.rule for anomaly in found} == {Rule.EFFECT_ONCE}
