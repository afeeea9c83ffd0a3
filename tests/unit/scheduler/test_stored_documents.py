"""Descriptions as they lie in rows: what an earlier release stored is read by this one.

These documents are golden: a field may be added with a default, never renamed.
"""

import json
from datetime import timedelta
from typing import Any

from services.scheduler.adapters.postgres.rows import from_document, to_document
from services.scheduler.domain.deployments.deployment import DeploymentSpec
from services.scheduler.domain.deployments.model import ModelPin
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import JobProgress, StopCause, StopRequest
from services.scheduler.domain.jobs.retries import JobRetries
from services.scheduler.domain.jobs.spec import (
    DependencyCondition,
    JobDependency,
    JobInput,
    JobOutput,
    JobSpec,
    JobTimeouts,
)
from tests.unit.scheduler.builders import (
    DIGEST,
    NOW,
    a_deployment_spec,
    a_pin,
    a_spec,
    resources,
)

SPEC: dict[str, Any] = {
    "name": "train",
    "image": "modelyard/base",
    "command": ["python", "train.py"],
    "env": {"A": "1"},
    "source_digest": "",
    "inputs": [{"name": "data", "digest": DIGEST}],
    "outputs": [{"name": "model", "path": "m", "register_as": "digits"}],
    "resources": {"cpu_millicores": 2000, "memory_bytes": 1 << 30, "gpu_count": 1},
    "timeouts": {"queue": "P1D", "start": None, "run": "PT90S", "stop_grace": "PT2.5S"},
    "retries": {"count_max": 2, "reasons": ["killed"], "exit_codes": [75]},
    "priority": 3,
    "labels": {"team": "x"},
    "queue": "nightly",
    "after": [{"job_id": "job_1", "condition": "END"}],
    "task_count": 8,
    "array_size": 100,
}


def stored(value: object) -> Any:
    """Return what the database gives back."""
    return json.loads(json.dumps(to_document(value)))


def test_a_job_spec_is_stored_like_this() -> None:
    spec = a_spec(
        env={"A": "1"},
        inputs=(JobInput("data", DIGEST),),
        outputs=(JobOutput("model", "m", "digits"),),
        resources=resources(cpu=2, gpus=1),
        timeouts=JobTimeouts(
            queue=timedelta(days=1), run=timedelta(seconds=90), stop_grace=timedelta(seconds=2.5)
        ),
        retries=JobRetries(2, reasons=(FailureReason.KILLED,), exit_codes=(75,)),
        priority=3,
        labels={"team": "x"},
        queue="nightly",
        after=(JobDependency(JobId("job_1"), DependencyCondition.END),),
        task_count=8,
        array_size=100,
    )
    assert stored(spec) == SPEC
    assert from_document(JobSpec, SPEC) == spec


def test_fields_of_a_newer_release_are_passed_over() -> None:
    assert from_document(JobSpec, SPEC | {"gang_size": 4}) == from_document(JobSpec, SPEC)


def test_what_an_older_release_did_not_store_is_the_default() -> None:
    old = {name: SPEC[name] for name in ("name", "image", "command")}
    assert from_document(JobSpec, old) == a_spec()


def test_a_deployment_is_stored_like_this() -> None:
    assert stored(a_deployment_spec()) == {
        "name": "digits",
        "model": "models:/digits@champion",
        "image": "modelyard/serve",
        "replica_count": 1,
        "resources": {"cpu_millicores": 1000, "memory_bytes": 1 << 30, "gpu_count": 0},
    }
    assert stored(a_pin()) == {
        "model_name": "digits",
        "version": 3,
        "files": [{"path": "model.pkl", "size_bytes": 10, "digest": DIGEST}],
    }
    assert from_document(DeploymentSpec, stored(a_deployment_spec())) == a_deployment_spec()
    assert from_document(ModelPin, stored(a_pin())) == a_pin()


def test_what_happens_to_a_job_is_stored_like_this() -> None:
    values = (
        JobProgress(0.5, "epoch 1", {"loss": 0.25}, NOW),
        JobFailure(FailureReason.LOST, "gone", exit_code=None, last_lines="x"),
        StopRequest(StopCause.RUN_TIMEOUT, "too long", NOW),
        StopRequest(StopCause.TASK_FAILED, "x", NOW, JobFailure(FailureReason.LOST, "x")),
    )
    assert [stored(value) for value in values] == [
        {
            "fraction": 0.5,
            "message": "epoch 1",
            "metrics": {"loss": 0.25},
            "reported_at": "2026-03-01T12:00:00Z",
        },
        {"reason": "lost", "message": "gone", "exit_code": None, "last_lines": "x"},
        {
            "cause": "run_timeout",
            "reason": "too long",
            "requested_at": "2026-03-01T12:00:00Z",
            "failure": None,
        },
        {
            "cause": "task_failed",
            "reason": "x",
            "requested_at": "2026-03-01T12:00:00Z",
            "failure": {"reason": "lost", "message": "x", "exit_code": None, "last_lines": ""},
        },
    ]
    for value in values:
        assert from_document(type(value), stored(value)) == value
    before = {"cause": "drained", "reason": "x", "requested_at": "2026-03-01T12:00:00Z"}
    assert from_document(StopRequest, before) == StopRequest(StopCause.DRAINED, "x", NOW)
