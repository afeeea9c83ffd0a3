"""Which loops a committed fact wakes."""

from datetime import timedelta

import pytest

from services.chassis.waking import Waking
from services.scheduler.domain.attempts.attempt import (
    AttemptState,
    AttemptTransitioned,
    Owner,
    OwnerKind,
)
from services.scheduler.domain.deployments.deployment import DeploymentChanged
from services.scheduler.domain.jobs.job import JobState, JobTransitioned
from services.scheduler.entrypoints.loops.waking import Alarms
from services.scheduler.use_cases.ports import Fact
from tests.unit.scheduler.builders import ACME, NOW, a_deployment, a_job, an_attempt

EVERYBODY = {"scheduling", "deployments", "runner"}
LOOPS = EVERYBODY | {"releases"}


def job(state: JobState) -> JobTransitioned:
    moved = a_job()
    return JobTransitioned(
        moved.id, ACME, "train", state, "", 1, 1, None, NOW, source_digest="", traceparent=None
    )


def attempt(state: AttemptState, kind: OwnerKind = OwnerKind.JOB) -> AttemptTransitioned:
    return AttemptTransitioned(an_attempt(state=state, owner=Owner(kind, "own_1", "own_1")), NOW)


@pytest.mark.parametrize(
    ("fact", "woken"),
    [
        (job(JobState.QUEUED), {"scheduling"}),
        (job(JobState.ADMITTED), {"runner"}),
        (attempt(AttemptState.CREATED), {"runner"}),
        (attempt(AttemptState.STARTED, OwnerKind.REPLICA), {"runner"}),
        (job(JobState.STOPPING), {"scheduling", "runner"}),
        (job(JobState.CANCELLED), {"scheduling", "runner", "releases"}),
        (job(JobState.SUCCEEDED), {"scheduling", "runner", "releases"}),
        (attempt(AttemptState.EXITED), {"scheduling", "runner"}),
        (attempt(AttemptState.EXITED, OwnerKind.REPLICA), EVERYBODY),
        (attempt(AttemptState.CLOSED, OwnerKind.REPLICA), EVERYBODY),
        (DeploymentChanged("created", a_deployment(), NOW), EVERYBODY),
        (a_deployment().routing_entry([]), EVERYBODY),
    ],
)
def test_fact_wakes_the_loops_that_it_may_concern(fact: Fact, woken: set[str]) -> None:
    loops = {name: Waking(timedelta(hours=1)) for name in LOOPS}
    alarms = Alarms(**loops)

    alarms.ring(fact)

    assert {name for name, waking in loops.items() if waking._woken.is_set()} == woken
