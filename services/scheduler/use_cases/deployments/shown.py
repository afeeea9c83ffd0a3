"""A deployment as callers see it."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.scheduler.domain.deployments.deployment import Deployment
from services.scheduler.domain.deployments.replica import Replica


@dataclass(frozen=True, slots=True)
class ShownDeployment:
    """A deployment with its replicas, by place."""

    deployment: Deployment
    replicas: Sequence[Replica]
