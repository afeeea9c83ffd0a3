"""What the runner needs to know of an attempt that is open on its node.

Owns: nothing; it joins an attempt with its owner's description and wish to stop.
"""

from dataclasses import dataclass, field
from datetime import timedelta

from services.scheduler.domain.attempts.attempt import Attempt
from services.scheduler.domain.deployments.deployment import Deployment
from services.scheduler.domain.deployments.model import ModelPin
from services.scheduler.domain.deployments.replica import Replica
from services.scheduler.domain.identities import DeploymentId, JobId, ReplicaId
from services.scheduler.domain.jobs.job import (
    ArrayElement,
    Checkpoint,
    Job,
    JobState,
    StopRequest,
)
from services.scheduler.domain.jobs.spec import JobSpec


@dataclass(frozen=True, slots=True)
class JobWork:
    """The job that an attempt is a try of."""

    job_id: JobId
    state: JobState
    spec: JobSpec
    checkpoint: Checkpoint | None = None
    """What an earlier attempt left."""
    element: ArrayElement | None = None

    @classmethod
    def of(cls, job: Job) -> "JobWork":
        """Return what the runner needs to know of a job."""
        return cls(job.id, job.state, job.spec, job.checkpoint, job.element)


@dataclass(frozen=True, slots=True)
class ReplicaWork:
    """The replica that an attempt is a try of."""

    replica_id: ReplicaId
    deployment_id: DeploymentId
    deployment_name: str
    image: str
    model: ModelPin
    address: str | None
    """Where it answers; None while it is not READY."""

    @classmethod
    def of(cls, replica: Replica, deployment: Deployment) -> "ReplicaWork":
        """Return what the runner needs to know of a deployment's replica."""
        return cls(
            replica_id=replica.id,
            deployment_id=deployment.id,
            deployment_name=deployment.spec.name,
            image=deployment.spec.image,
            model=deployment.model,
            address=replica.address,
        )


@dataclass(frozen=True, slots=True)
class AttemptWork:
    """An open attempt (CREATED or STARTED), what to run, and whether it should end."""

    attempt: Attempt
    owner: JobWork | ReplicaWork
    stop: StopRequest | None
    """Set from the moment that its owner is STOPPING."""
    is_current: bool
    """False when the owner has moved on to another attempt: only its end still matters."""
    placed_for: timedelta = field(compare=False)
    """How long ago it was created when this was read, by the database's clock; that it grows is
    no news."""

    @property
    def should_end(self) -> bool:
        """Tell whether nobody wants it to go on."""
        return self.stop is not None or not self.is_current

    @property
    def traceparent(self) -> str | None:
        """Return the submission's, the parent of all that the attempt does."""
        return self.attempt.traceparent
