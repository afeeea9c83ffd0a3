"""Attempts with their owners, as the runner reads them; and how a runtime is set up."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from services.chassis.tenancy import TenantId
from services.scheduler.adapters.runtime_docker.hardening import Hardening, Users
from services.scheduler.adapters.runtime_docker.runtime import DockerOptions
from services.scheduler.domain.attempts.attempt import Attempt, AttemptState, Owner, OwnerKind
from services.scheduler.domain.attempts.runtime import (
    ContainerExit,
    ContainerPhase,
    ContainerStatus,
)
from services.scheduler.domain.attempts.work import AttemptWork, JobWork, ReplicaWork
from services.scheduler.domain.deployments.model import ModelPin
from services.scheduler.domain.files import FileEntry
from services.scheduler.domain.identities import (
    AttemptId,
    DeploymentId,
    JobId,
    NodeId,
    ReplicaId,
)
from services.scheduler.domain.jobs.job import JobState, StopCause, StopRequest
from services.scheduler.domain.jobs.spec import JobSpec, JobTimeouts
from services.scheduler.domain.resources import DEFAULT_RESOURCES

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
RUN_TIMEOUT = timedelta(minutes=10)
STOP = StopRequest(StopCause.CANCELLED, "asked", NOW)
DIGEST = "sha256:" + "0" * 64
MODEL = ModelPin("digits", 3, (FileEntry("model.joblib", 5, DIGEST),))


def a_job(**changes: Any) -> JobWork:
    given: dict[str, Any] = {
        "name": "train",
        "image": "modelyard/base",
        "command": ("python", "main.py"),
        "timeouts": JobTimeouts(run=RUN_TIMEOUT),
    }
    return JobWork(JobId("job_1"), JobState.RUNNING, JobSpec(**(given | changes)))


def a_replica(*, address: str | None = None, model: ModelPin = MODEL) -> ReplicaWork:
    return ReplicaWork(
        ReplicaId("rep_1"),
        DeploymentId("dep_1"),
        "digits",
        "modelyard/serve-sklearn",
        model,
        address,
    )


def some_work(
    state: AttemptState = AttemptState.STARTED,
    *,
    owner: JobWork | ReplicaWork | None = None,
    stop: StopRequest | None = None,
    is_current: bool = True,
    traceparent: str | None = None,
    placed_for: timedelta = timedelta(0),
) -> AttemptWork:
    owner = owner or a_job()
    kind = OwnerKind.JOB if isinstance(owner, JobWork) else OwnerKind.REPLICA
    owner_id = owner.job_id if isinstance(owner, JobWork) else owner.replica_id
    public_id = owner.job_id if isinstance(owner, JobWork) else owner.deployment_id
    attempt = Attempt(
        id=AttemptId("att_1"),
        tenant=TenantId("default"),
        owner=Owner(kind, owner_id, public_id),
        number=1,
        node_id=NodeId("node-1"),
        resources=DEFAULT_RESOURCES,
        state=state,
        version=1 if state is AttemptState.CREATED else 2,
        created_at=NOW,
        traceparent=traceparent,
        started_at=None if state is AttemptState.CREATED else NOW,
    )
    return AttemptWork(
        attempt=attempt, owner=owner, stop=stop, is_current=is_current, placed_for=placed_for
    )


def a_container(phase: ContainerPhase, **changes: Any) -> ContainerStatus:
    given: dict[str, Any] = {"name": "modelyard-att_1", "phase": phase}
    if phase in {ContainerPhase.RUNNING, ContainerPhase.EXITED}:
        given["started_at"] = NOW
    return ContainerStatus(**(given | changes))


def an_exit(code: int = 0, **changes: Any) -> ContainerExit:
    given: dict[str, Any] = {
        "code": code,
        "signal": code - 128 if code > 128 else None,
        "cause": None,
        "started_at": NOW,
        "ended_at": NOW + timedelta(minutes=1),
        "memory_bytes_peak": 1 << 20,
        "cpu": timedelta(seconds=1),
    }
    return ContainerExit(**(given | changes))


def docker_options(root: Path) -> DockerOptions:
    return DockerOptions(
        scope="tests",
        containers_root=root,
        images={},
        is_host_fenced=True,
        pull_timeout=timedelta(seconds=1),
        users=Users(first=200_000, count=1),
        hardening=Hardening(
            pids_max=1,
            open_files_max=1,
            tmp_bytes=1,
            shared_memory_bytes=1,
            log_file_bytes=1,
            log_files_max=1,
        ),
    )
