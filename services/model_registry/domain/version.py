"""Model versions and the states they pass.

Owns: the state table and what a version remembers. Its number is given by its model
(`domain.model`), and never again to another.
Always holds: what a READY version consists of never changes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from services.chassis.errors import FailedPrecondition, InvalidArgument, PayloadTooLarge
from services.model_registry.domain.artifact import Digest, Manifest
from services.model_registry.domain.naming import checked_tags

METRICS_MAX: Final = 500
METRIC_NAME_CHARACTERS_MAX: Final = 250
METRIC_NAMES_BYTES_MAX: Final = 64 * 1024


class VersionState(StrEnum):
    """Where a version is."""

    PREPARING = "PREPARING"
    READY = "READY"
    FAILED = "FAILED"
    DELETED = "DELETED"


TRANSITIONS: Final[Mapping[VersionState, frozenset[VersionState]]] = {
    VersionState.PREPARING: frozenset({VersionState.READY, VersionState.FAILED}),
    VersionState.READY: frozenset({VersionState.DELETED}),
    VersionState.FAILED: frozenset({VersionState.DELETED}),
    VersionState.DELETED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Lineage:
    """Which output of which job a version is, and from which source that job was run."""

    job_id: str
    output_name: str
    source_digest: Digest | None


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What a version shall consist of, before it has a number."""

    manifest: Manifest
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    lineage: Lineage | None = None

    @classmethod
    def checked(
        cls,
        manifest: Manifest,
        *,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        lineage: Lineage | None = None,
    ) -> "NewVersion":
        """Return it from what a caller sent. Raises InvalidArgument, PayloadTooLarge."""
        return cls(manifest, checked_tags(tags or {}), checked_metrics(metrics or {}), lineage)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model."""

    model_id: str
    number: int
    state: VersionState
    reason: str
    content: NewVersion
    created_at: datetime

    def move(self, to: VersionState, *, reason: str = "") -> "ModelVersion":
        """Return it in another state. Raises FailedPrecondition where the table has no such row."""
        if to not in TRANSITIONS[self.state]:
            raise FailedPrecondition(
                f"version {self.number} is {self.state} and can't become {to}",
                detail={"state": self.state, "to": to},
            )
        return replace(self, state=to, reason=reason)


def checked_metrics(metrics: Mapping[str, float]) -> Mapping[str, float]:
    """Return those metrics that are numbers.

    A diverged loss (NaN, infinite) is no reason to refuse a version, but JSON has no word for it.
    Raises InvalidArgument, PayloadTooLarge.
    """
    if len(metrics) > METRICS_MAX:
        raise InvalidArgument("metrics", f"must be at most {METRICS_MAX}")
    for name in metrics:
        if not 1 <= len(name) <= METRIC_NAME_CHARACTERS_MAX or "\0" in name:
            raise InvalidArgument(
                "metrics", f"a name must have 1 to {METRIC_NAME_CHARACTERS_MAX} characters, no NUL"
            )
    if sum(len(name.encode()) for name in metrics) > METRIC_NAMES_BYTES_MAX:
        raise PayloadTooLarge("metrics", bytes_max=METRIC_NAMES_BYTES_MAX)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
