"""A deployment: a model version that is kept answering.

Owns: its state table, and the routing entry that its READY replicas make. Always holds: `version`
grows by one with each published change of state, from above those of the name's earlier
deployments, so that what is meant for one of them fits no later one (ADR-0028); `generation` grows
by one with each new routing entry; an entry of a deleted deployment has no endpoints.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from services.chassis.errors import InvalidArgument, check_version
from services.chassis.tenancy import TenantId
from services.scheduler.domain.deployments.model import ModelPin, ModelReference
from services.scheduler.domain.deployments.replica import Replica
from services.scheduler.domain.identities import DeploymentId, ReplicaId
from services.scheduler.domain.jobs.spec import check_image
from services.scheduler.domain.resources import DEFAULT_RESOURCES, Resources
from services.scheduler.domain.transitions import IllegalTransition

REPLICAS_MAX: Final = 32

_NAME: Final = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


class DeploymentState(StrEnum):
    """A deployment's observed condition."""

    PREPARING = "PREPARING"
    SERVING = "SERVING"
    DELETING = "DELETING"
    DELETED = "DELETED"


S = DeploymentState

TRANSITIONS: Final[Mapping[DeploymentState, frozenset[DeploymentState]]] = {
    S.PREPARING: frozenset({S.SERVING, S.DELETING}),
    S.SERVING: frozenset({S.PREPARING, S.DELETING}),
    S.DELETING: frozenset({S.DELETED}),
    S.DELETED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """What a user asks for."""

    name: str
    model: str
    image: str
    replica_count: int = 1
    resources: Resources = DEFAULT_RESOURCES

    def check(self) -> ModelReference:
        """Return the model that is asked for; raises InvalidArgument for a field out of bounds."""
        if not _NAME.fullmatch(self.name):
            raise InvalidArgument("spec.name", "must be a lower-case DNS label")
        check_image(self.image, field="spec.image")
        if not 1 <= self.replica_count <= REPLICAS_MAX:
            raise InvalidArgument("spec.replica_count", f"must be between 1 and {REPLICAS_MAX}")
        return ModelReference.parse(self.model, field="spec.model")


@dataclass(frozen=True, slots=True)
class ReplicaEndpoint:
    """Where one replica listens: `host:port`, HTTP, Open Inference Protocol v2."""

    replica_id: ReplicaId
    address: str


@dataclass(frozen=True, slots=True)
class RoutingEntry:
    """The whole truth about where a deployment answers; readers drop lower generations."""

    deployment_id: DeploymentId
    tenant: TenantId
    name: str
    generation: int
    endpoints: tuple[ReplicaEndpoint, ...]
    deleted: bool
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class DeploymentChanged:
    """The fact that a deployment changed; published as `modelyard.deployment.<what>.v1`."""

    what: str
    deployment: "Deployment"
    at: datetime


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment as its owner sees it; moves return the new value and the fact to publish."""

    id: DeploymentId
    tenant: TenantId
    spec: DeploymentSpec
    model: ModelPin
    state: DeploymentState
    reason: str
    version: int
    generation: int
    created_at: datetime
    traceparent: str | None = None
    deleting_at: datetime | None = None
    deleted_at: datetime | None = None

    @classmethod
    def created(
        cls,
        deployment_id: DeploymentId,
        tenant: TenantId,
        spec: DeploymentSpec,
        model: ModelPin,
        *,
        at: datetime,
        traceparent: str | None,
        earlier_version: int = 0,
    ) -> "tuple[Deployment, DeploymentChanged]":
        """Return a new deployment without any replica that answers."""
        deployment = cls(
            id=deployment_id,
            tenant=tenant,
            spec=spec,
            model=model,
            state=S.PREPARING,
            reason="created",
            version=earlier_version + 1,
            generation=0,
            created_at=at,
            traceparent=traceparent,
        )
        return deployment, DeploymentChanged("created", deployment, at)

    @property
    def is_wanted(self) -> bool:
        """Tell whether its replicas should run."""
        return self.state in {S.PREPARING, S.SERVING}

    @property
    def is_deleting(self) -> bool:
        """Tell whether its replicas are on their way out."""
        return self.state is S.DELETING

    def observed(
        self, *, ready_count: int, at: datetime
    ) -> "tuple[Deployment, DeploymentChanged] | None":
        """Follow what is seen of the replicas; None when that changes nothing."""
        state = S.SERVING if ready_count else S.PREPARING
        if not self.is_wanted or state is self.state:
            return None
        reason = "a replica answers" if ready_count else "no replica answers"
        return self.move(state, reason=reason, at=at)

    def unanswered(self, *, because: str) -> "Deployment":
        """Return it with what its replica that ended last had to say: no change of its state."""
        if self.state is not S.PREPARING:
            return self
        return replace(self, reason=f"no replica answers: {because}")

    def asked_to_delete(
        self, *, at: datetime, if_version: int | None = None
    ) -> "tuple[Deployment, DeploymentChanged] | None":
        """Ask for its end; None when that was asked before. Raises VersionMismatch."""
        if not self.is_wanted:
            return None
        check_version("deployment", self.spec.name, current=self.version, if_version=if_version)
        return self.move(S.DELETING, reason="deletion was asked for", at=at, deleting_at=at)

    def deleted(self, *, at: datetime) -> "tuple[Deployment, DeploymentChanged]":
        """All its replicas have ended."""
        return self.move(S.DELETED, reason="all replicas have ended", at=at, deleted_at=at)

    def rerouted(self) -> "Deployment":
        """Return the deployment with the next generation of its routing entry."""
        return replace(self, generation=self.generation + 1)

    def routing_entry(self, replicas: Iterable[Replica]) -> RoutingEntry:
        """Return where it answers now."""
        endpoints = [
            ReplicaEndpoint(replica.id, replica.address)
            for replica in replicas
            if replica.address is not None and self.is_wanted
        ]
        return RoutingEntry(
            deployment_id=self.id,
            tenant=self.tenant,
            name=self.spec.name,
            generation=self.generation,
            endpoints=tuple(sorted(endpoints, key=lambda endpoint: endpoint.replica_id)),
            deleted=not self.is_wanted,
            traceparent=self.traceparent,
        )

    def move(
        self, to: DeploymentState, *, reason: str, at: datetime, **changes: Any
    ) -> "tuple[Deployment, DeploymentChanged]":
        """Move by the table, and by nothing else; raises IllegalTransition."""
        if to not in TRANSITIONS[self.state]:
            raise IllegalTransition("deployment", self.id, state=self.state, to=to)
        moved = replace(self, state=to, reason=reason, version=self.version + 1, **changes)
        return moved, DeploymentChanged(to.lower(), moved, at)
