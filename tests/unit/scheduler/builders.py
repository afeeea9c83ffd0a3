"""The scheduler's things, made for tests."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import Attempt, Owner, OwnerKind
from services.scheduler.domain.attempts.ending import AttemptEnding, EndReason
from services.scheduler.domain.deployments.deployment import Deployment, DeploymentSpec
from services.scheduler.domain.deployments.model import ModelPin
from services.scheduler.domain.deployments.replica import Replica
from services.scheduler.domain.files import FileEntry
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import (
    AttemptId,
    DeploymentId,
    JobId,
    NodeId,
    ReplicaId,
)
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.jobs.spec import JobSpec
from services.scheduler.domain.resources import Resources

ACME = TenantId("acme")
UMBRELLA = TenantId("umbrella")
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DIGEST = "sha256:" + "0123456789abcdef" * 4
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NODE = NodeId("node-1")
GIB = 1 << 30
ENDING = AttemptEnding(EndReason.EXIT_CODE, "exit code 1")
"""An attempt's, where it is no matter why."""


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def resources(cpu: int = 1, memory: int = 1, gpus: int = 0) -> Resources:
    """Return cores, GiB and GPUs."""
    return Resources(cpu * 1_000, memory * GIB, gpus)


def a_spec(**changes: Any) -> JobSpec:
    spec = JobSpec(name="train", image="modelyard/base", command=("python", "train.py"))
    return replace(spec, **changes)


def a_job(**changes: Any) -> Job:
    job, _ = Job.queued(JobId("job_1"), ACME, a_spec(), at=NOW, traceparent=TRACEPARENT)
    return replace(job, **changes)


def an_attempt(**changes: Any) -> Attempt:
    attempt, _ = Attempt.created(
        AttemptId("att_1"),
        ACME,
        Owner(OwnerKind.JOB, "job_1", public_id="job_1"),
        number=1,
        node_id=NODE,
        resources=resources(),
        at=NOW,
        traceparent=TRACEPARENT,
    )
    return replace(attempt, **changes)


def a_pin() -> ModelPin:
    return ModelPin("digits", 3, (FileEntry("model.pkl", 10, DIGEST),))


def a_deployment_spec(**changes: Any) -> DeploymentSpec:
    spec = DeploymentSpec("digits", "models:/digits@champion", "modelyard/serve")
    return replace(spec, **changes)


def a_deployment(**changes: Any) -> Deployment:
    deployment, _ = Deployment.created(
        DeploymentId("dep_1"),
        ACME,
        a_deployment_spec(),
        a_pin(),
        at=NOW,
        traceparent=TRACEPARENT,
    )
    return replace(deployment, **changes)


def a_replica(**changes: Any) -> Replica:
    replica = Replica.queued(ReplicaId("rep_1"), ACME, DeploymentId("dep_1"), ordinal=0)
    return replace(replica, **changes)


def a_node(
    name: str = NODE, *, capacity: Resources, used: Resources | None = None, **changes: Any
) -> Node:
    node = Node(NodeId(name), capacity, used or Resources(), NOW, "process", None)
    return replace(node, **changes)
