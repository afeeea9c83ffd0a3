"""Every pair of states of every table: what the table allows moves, what it doesn't is refused."""

import itertools
from collections.abc import Mapping
from enum import StrEnum

import pytest

from services.scheduler.domain.attempts import attempt
from services.scheduler.domain.attempts.attempt import AttemptState
from services.scheduler.domain.deployments import deployment, replica
from services.scheduler.domain.deployments.deployment import DeploymentState
from services.scheduler.domain.deployments.replica import ReplicaState
from services.scheduler.domain.jobs import job
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.transitions import IllegalTransition
from tests.unit.scheduler.builders import (
    NOW,
    a_deployment,
    a_job,
    a_replica,
    a_spec,
    an_attempt,
)


@pytest.mark.parametrize(("state", "to"), list(itertools.product(JobState, repeat=2)))
def test_job_moves_only_by_its_table(state: JobState, to: JobState) -> None:
    before = a_job(state=state, version=7)
    if to not in job.TRANSITIONS[state]:
        with pytest.raises(IllegalTransition):
            before.move(to, reason="because", at=NOW)
        return
    after, fact = before.move(to, reason="because", at=NOW)
    assert (after.state, after.version, after.reason) == (to, 8, "because")
    assert (fact.state, fact.version, fact.reason, fact.at) == (to, 8, "because", NOW)


@pytest.mark.parametrize(("state", "to"), list(itertools.product(JobState, repeat=2)))
def test_array_moves_only_by_its_table(state: JobState, to: JobState) -> None:
    before = a_job(spec=a_spec(array_size=3), state=state, version=7)
    if to not in job.ARRAY_TRANSITIONS[state]:
        with pytest.raises(IllegalTransition):
            before.move(to, reason="because", at=NOW)
        return
    after, fact = before.move(to, reason="because", at=NOW)
    assert (after.state, fact.state, fact.version) == (to, to, 8)


@pytest.mark.parametrize(("state", "to"), list(itertools.product(AttemptState, repeat=2)))
def test_attempt_moves_only_by_its_table(state: AttemptState, to: AttemptState) -> None:
    before = an_attempt(state=state, version=7)
    if to not in attempt.TRANSITIONS[state]:
        with pytest.raises(IllegalTransition):
            before.move(to, at=NOW)
        return
    after, fact = before.move(to, at=NOW)
    assert (after.state, after.version) == (to, 8)
    assert fact.attempt == after


@pytest.mark.parametrize(("state", "to"), list(itertools.product(DeploymentState, repeat=2)))
def test_deployment_moves_only_by_its_table(state: DeploymentState, to: DeploymentState) -> None:
    before = a_deployment(state=state, version=7)
    if to not in deployment.TRANSITIONS[state]:
        with pytest.raises(IllegalTransition):
            before.move(to, reason="because", at=NOW)
        return
    after, fact = before.move(to, reason="because", at=NOW)
    assert (after.state, after.version) == (to, 8)
    assert (fact.what, fact.deployment) == (to.lower(), after)


@pytest.mark.parametrize(("state", "to"), list(itertools.product(ReplicaState, repeat=2)))
def test_replica_moves_only_by_its_table(state: ReplicaState, to: ReplicaState) -> None:
    before = a_replica(state=state, version=7)
    if to not in replica.TRANSITIONS[state]:
        with pytest.raises(IllegalTransition):
            before.move(to, reason="because")
        return
    after = before.move(to, reason="because")
    assert (after.state, after.version) == (to, 8)


@pytest.mark.parametrize(
    ("table", "states"),
    [
        (job.TRANSITIONS, JobState),
        (job.ARRAY_TRANSITIONS, JobState),
        (attempt.TRANSITIONS, AttemptState),
        (deployment.TRANSITIONS, DeploymentState),
        (replica.TRANSITIONS, ReplicaState),
    ],
)
def test_every_state_has_a_row(
    table: Mapping[StrEnum, frozenset[StrEnum]], states: type[StrEnum]
) -> None:
    assert set(table) == set(states)
