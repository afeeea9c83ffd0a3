"""A replica: one copy of a deployment's model server.

Owns: the replica's state table, and when an ended one is tried again. Always holds: only a READY
replica has an address; a replica that ENDED for good has no `restart_at`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import AttemptId, DeploymentId, NodeId, ReplicaId
from services.scheduler.domain.transitions import IllegalTransition

RESTART_DELAY_MIN: Final = timedelta(seconds=1)
RESTART_DELAY_MAX: Final = timedelta(seconds=60)


class ReplicaState(StrEnum):
    """Where a replica is."""

    QUEUED = "QUEUED"
    WARMING = "WARMING"
    READY = "READY"
    STOPPING = "STOPPING"
    ENDED = "ENDED"


S = ReplicaState

TRANSITIONS: Final[Mapping[ReplicaState, frozenset[ReplicaState]]] = {
    S.QUEUED: frozenset({S.WARMING, S.ENDED}),
    S.WARMING: frozenset({S.READY, S.STOPPING, S.ENDED}),
    S.READY: frozenset({S.WARMING, S.STOPPING, S.ENDED}),  # to WARMING: it stopped answering
    S.STOPPING: frozenset({S.ENDED}),
    S.ENDED: frozenset({S.QUEUED}),  # tried again
}


@dataclass(frozen=True, slots=True)
class Replica:
    """One copy of a model server."""

    id: ReplicaId
    tenant: TenantId
    deployment_id: DeploymentId
    ordinal: int
    """Its place among the deployment's copies, from 0."""
    state: ReplicaState
    reason: str
    version: int
    attempt_number: int = 0
    attempt_id: AttemptId | None = None
    node_id: NodeId | None = None
    address: str | None = None
    ready_at: datetime | None = None
    stop_requested_at: datetime | None = None
    restart_count: int = 0
    failure_count: int = 0
    """Ends in a row without a long enough spell of being READY between them."""
    restart_at: datetime | None = None
    leaving_at: datetime | None = None
    """Since when it is out of the routing table for good, to be stopped; it still answers."""

    @classmethod
    def queued(
        cls, replica_id: ReplicaId, tenant: TenantId, deployment_id: DeploymentId, *, ordinal: int
    ) -> "Replica":
        """Return a new replica, waiting for capacity."""
        return cls(
            id=replica_id,
            tenant=tenant,
            deployment_id=deployment_id,
            ordinal=ordinal,
            state=S.QUEUED,
            reason="waits for capacity",
            version=1,
        )

    @property
    def is_ended(self) -> bool:
        """Tell whether nothing of it runs or waits."""
        return self.state is S.ENDED

    @property
    def is_waiting(self) -> bool:
        """Tell whether it stands in line, or will once it is tried again."""
        return self.state is S.QUEUED or (self.is_ended and self.restart_at is not None)

    @property
    def is_warming(self) -> bool:
        """Tell whether it is to answer as soon as it can."""
        return self.state is S.WARMING and self.leaving_at is None

    def placed(self, attempt_id: AttemptId, node_id: NodeId) -> "Replica":
        """Capacity is taken on a node, for a new attempt."""
        return self.move(
            S.WARMING,
            reason=f"placed on {node_id}",
            attempt_number=self.attempt_number + 1,
            attempt_id=attempt_id,
            node_id=node_id,
        )

    def ready(self, address: str, *, at: datetime) -> "Replica":
        """It answers requests at `host:port`."""
        return self.move(S.READY, reason="answers", address=address, ready_at=at)

    def unready(self, *, reason: str) -> "Replica":
        """It runs but does not answer any more; its spell of being READY is over."""
        return self.move(S.WARMING, reason=reason, address=None, ready_at=None)

    def leaving(self, *, reason: str, at: datetime) -> "Replica":
        """It is to be stopped once nobody sends to it any more."""
        return self.move(S.WARMING, reason=reason, address=None, ready_at=None, leaving_at=at)

    def asked_to_stop(self, *, reason: str, at: datetime) -> "Replica":
        """Ask for its end: at once when nothing runs, else STOPPING until confirmed."""
        if self.state is S.STOPPING:
            return self
        if self.state is S.ENDED:
            return replace(self, version=self.version + 1, restart_at=None)
        if self.state is S.QUEUED:
            return self.move(S.ENDED, reason=reason)
        return self.move(S.STOPPING, reason=reason, address=None, stop_requested_at=at)

    def ended(self, *, reason: str, at: datetime, comes_back: bool = False) -> "Replica":
        """Its runtime confirmed its end; one that was not asked to stop is tried again later.

        One that was asked to comes back in line at once if its deployment is wanted still: its node
        is drained, or its tenant suspended; then the line passes over it for as long as that lasts.
        """
        if self.state is S.STOPPING and comes_back:
            return self.move(S.ENDED, reason=self.reason, restart_at=at)
        if self.state is S.STOPPING:
            return self.move(S.ENDED, reason=reason)
        served = self.ready_at is not None and at - self.ready_at >= RESTART_DELAY_MAX
        failure_count = 1 if served else self.failure_count + 1
        return self.move(
            S.ENDED,
            reason=reason,
            address=None,
            ready_at=None,
            failure_count=failure_count,
            restart_at=at + restart_delay(failure_count),
        )

    def requeued(self) -> "Replica":
        """Back in line after its end."""
        return self.move(
            S.QUEUED,
            reason=f"restarts: {self.reason}",
            restart_at=None,
            leaving_at=None,
            restart_count=self.restart_count + 1,
        )

    def move(self, to: ReplicaState, *, reason: str, **changes: Any) -> "Replica":
        """Move by the table, and by nothing else; raises IllegalTransition."""
        if to not in TRANSITIONS[self.state]:
            raise IllegalTransition("replica", self.id, state=self.state, to=to)
        return replace(self, state=to, reason=reason, version=self.version + 1, **changes)


def restart_delay(failure_count: int) -> timedelta:
    """Return the wait before the next try: doubling from 1 s, at most 60 s."""
    doublings = min(failure_count - 1, 10)
    return min(RESTART_DELAY_MIN * (1 << doublings), RESTART_DELAY_MAX)
