"""What the runner needs to know of an attempt that is open on its node.

Owns: nothing; it joins an attempt with its owner's description and wish to stop.
"""

from dataclasses import dataclass

from services.scheduler.domain.attempts.attempt import Attempt
from services.scheduler.domain.deployments.model import ModelPin
from services.scheduler.domain.identities import DeploymentId, JobId, ReplicaId
from services.scheduler.domain.jobs.job import Checkpoint, JobState, StopRequest
from services.scheduler.domain.jobs.spec import JobSpec


@dataclass(frozen=True, slots=True)
class JobWork:
    """The job that an attempt is a try of."""

    job_id: JobId
    state: JobState
    spec: JobSpec
    checkpoint: Checkpoint | None = None
    """What an earlier attempt left."""


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


@dataclass(frozen=True, slots=True)
class AttemptWork:
    """An open attempt (CREATED or STARTED), what to run, and whether it should end."""

    attempt: Attempt
    owner: JobWork | ReplicaWork
    stop: StopRequest | None
    """Set from the moment that its owner is STOPPING."""
    is_current: bool
    """False when the owner has moved on to another attempt: only its end still matters."""

    @property
    def traceparent(self) -> str | None:
        """Return the submission's, the parent of all that the attempt does."""
        return self.attempt.traceparent
