"""An attempt: one try to run its owner, and the holder of its node's capacity.

Owns: the attempt's state table. Always holds: the capacity that it took is given back in the
transaction that records its end (EXITED, LOST or CLOSED), never earlier; and that end says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.ending import AttemptEnding
from services.scheduler.domain.identities import AttemptId, NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.transitions import IllegalTransition


class AttemptState(StrEnum):
    """Where an attempt is."""

    CREATED = "CREATED"
    STARTED = "STARTED"
    EXITED = "EXITED"
    LOST = "LOST"
    CLOSED = "CLOSED"


S = AttemptState

TRANSITIONS: Final[Mapping[AttemptState, frozenset[AttemptState]]] = {
    # CLOSED: never ran, and never will. LOST: its node is, and nobody knows whether it ran.
    S.CREATED: frozenset({S.STARTED, S.CLOSED, S.LOST}),
    S.STARTED: frozenset({S.EXITED, S.LOST}),
    S.EXITED: frozenset(),
    S.LOST: frozenset(),
    S.CLOSED: frozenset(),
}
OPEN: Final = (S.CREATED, S.STARTED)
"""With capacity, and a container or the right to one."""


class OwnerKind(StrEnum):
    """What an attempt is a try of."""

    JOB = "JOB"
    REPLICA = "REPLICA"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose try it is; `public_id` is what callers know: the job, or the replica's deployment."""

    kind: OwnerKind
    id: str
    public_id: str


@dataclass(frozen=True, slots=True)
class LogLocation:
    """Where its runtime keeps its output, relative to the runtime's container folder."""

    path: str
    format: str = "json-file"


@dataclass(frozen=True, slots=True)
class AttemptTransitioned:
    """The fact that an attempt moved; published as `modelyard.attempt.<state>.v1`."""

    attempt: "Attempt"
    at: datetime
    is_end_seen: bool = True
    """False: nobody saw its end, and what it printed last may be missing."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try; each move returns the new value and the fact to publish."""

    id: AttemptId
    tenant: TenantId
    owner: Owner
    number: int
    node_id: NodeId
    resources: Resources
    state: AttemptState
    version: int
    created_at: datetime = field(compare=False)
    """Of what is read by the database's clock, of a new one by its maker's: no difference that
    matters."""
    traceparent: str | None = None
    """Its owner's submission's."""
    log_location: LogLocation | None = None
    exit_code: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    ending: AttemptEnding | None = None
    """Why it ended; None: it has not, or did before that was kept."""
    task: int = 0
    """Which of its job's tasks it runs, from 0 on."""
    task_count: int = 1
    """How many its job has."""
    run_max: timedelta | None = None
    """Its job's limit, counted from its placement; None: it is no job's, or from before that was
    kept."""
    template: str = ""
    """What its job and others are alike by; empty: it is no job's, or from before that was kept."""
    run_expected: timedelta | None = None
    """How long the latest of its template took, as of its placement; None: there were none."""

    @classmethod
    def created(
        cls,
        attempt_id: AttemptId,
        tenant: TenantId,
        owner: Owner,
        *,
        number: int,
        node_id: NodeId,
        resources: Resources,
        at: datetime,
        traceparent: str | None,
        task: int = 0,
        task_count: int = 1,
        run_max: timedelta | None = None,
        template: str = "",
        run_expected: timedelta | None = None,
    ) -> "tuple[Attempt, AttemptTransitioned]":
        """Return a new attempt, whose capacity is booked in the same transaction."""
        attempt = cls(
            id=attempt_id,
            tenant=tenant,
            owner=owner,
            number=number,
            node_id=node_id,
            resources=resources,
            state=S.CREATED,
            version=1,
            created_at=at,
            traceparent=traceparent,
            task=task,
            task_count=task_count,
            run_max=run_max,
            template=template,
            run_expected=run_expected,
        )
        return attempt, AttemptTransitioned(attempt, at)

    @property
    def container_name(self) -> str:
        """Return its container's name: one an attempt, so that a late create finds it taken."""
        return container_name(self.id)

    @property
    def is_terminal(self) -> bool:
        """Tell whether it has ended, so that it holds no capacity."""
        return not TRANSITIONS[self.state]

    def started(
        self, log_location: LogLocation, *, at: datetime
    ) -> "tuple[Attempt, AttemptTransitioned]":
        """Its container runs."""
        return self.move(S.STARTED, at=at, log_location=log_location, started_at=at)

    def exited(
        self, exit_code: int, ending: AttemptEnding, *, at: datetime, is_end_seen: bool = True
    ) -> "tuple[Attempt, AttemptTransitioned]":
        """Its runtime knows how it ended; by a signal: 128 + signal."""
        exited, fact = self._ended(S.EXITED, ending, at=at, exit_code=exit_code)
        return exited, replace(fact, is_end_seen=is_end_seen)

    def lost(self, ending: AttemptEnding, *, at: datetime) -> "tuple[Attempt, AttemptTransitioned]":
        """Nobody knows how it ended: its runtime does not, or its node is lost."""
        lost, fact = self._ended(S.LOST, ending, at=at)
        return lost, replace(fact, is_end_seen=False)

    def closed(
        self, ending: AttemptEnding, *, at: datetime
    ) -> "tuple[Attempt, AttemptTransitioned]":
        """It never ran, and its name is taken so that it never will."""
        return self._ended(S.CLOSED, ending, at=at)

    def move(
        self, to: AttemptState, *, at: datetime, **changes: Any
    ) -> "tuple[Attempt, AttemptTransitioned]":
        """Move by the table, and by nothing else; raises IllegalTransition."""
        if to not in TRANSITIONS[self.state]:
            raise IllegalTransition("attempt", self.id, state=self.state, to=to)
        moved = replace(self, state=to, version=self.version + 1, **changes)
        return moved, AttemptTransitioned(moved, at)

    def _ended(
        self, to: AttemptState, ending: AttemptEnding, *, at: datetime, **changes: Any
    ) -> "tuple[Attempt, AttemptTransitioned]":
        return self.move(to, at=at, ended_at=at, ending=ending.bounded(), **changes)


_CONTAINER_PREFIX: Final = "modelyard-"


def container_name(attempt_id: AttemptId) -> str:
    """Return the name that an attempt's container has on its node."""
    return f"{_CONTAINER_PREFIX}{attempt_id}"


def attempt_of_container(name: str) -> AttemptId:
    """Return whose container this is; of a foreign one, an attempt that nobody knows."""
    return AttemptId(name.removeprefix(_CONTAINER_PREFIX))
