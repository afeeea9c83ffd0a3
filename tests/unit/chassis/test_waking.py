"""Which loops a committed fact wakes."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.chassis.waking import Waking
from services.scheduler.domain.attempts.attempt import (
    AttemptState,
    AttemptTransitioned,
    Owner,
    OwnerKind,
)
from services.scheduler.domain.deployments.deployment import DeploymentChanged
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import ArrayElement, JobState, JobTransitioned
from services.scheduler.entrypoints.loops.waking import Alarms
from services.scheduler.use_cases.ports import Fact
from tests.unit.scheduler.builders import ACME, NOW, a_deployment, a_job, an_attempt

EVERYBODY = {"scheduling", "deployments", "runner"}
LOOPS = EVERYBODY | {"releases"}
ELEMENT = ArrayElement(JobId("job_array"), 0)


def job(state: JobState, *, version: int = 1, **more: Any) -> JobTransitioned:
    fact = JobTransitioned(
        *(a_job().id, ACME, "train", state, "", version, 1, None, NOW),
        source_digest="",
        traceparent=None,
    )
    return replace(fact, **more)


def attempt(state: AttemptState, kind: OwnerKind = OwnerKind.JOB) -> AttemptTransitioned:
    return AttemptTransitioned(an_attempt(state=state, owner=Owner(kind, "own_1", "own_1")), NOW)


@pytest.mark.parametrize(
    ("fact", "woken"),
    [
        (job(JobState.QUEUED), {"scheduling"}),
        (job(JobState.QUEUED, element=ELEMENT), set()),
        (job(JobState.QUEUED, element=ELEMENT, version=5), {"scheduling"}),
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
