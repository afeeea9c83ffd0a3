"""Why a job or a deployment's replica waits, and how a job stands, as the command line shows it."""

from collections.abc import Mapping
from typing import Final

from modelyard.client import JOB_STATES, DeploymentExplanation, Job, JobExplanation

SUBMITTED: Final = "submitted"
"""The reason of a job that nothing but its place in line keeps from starting."""

_BASES: Final = {"LIMITS": "by run time limits", "HISTORY": "by how long such jobs took"}


def reason_fields(told: JobExplanation | DeploymentExplanation) -> list[tuple[str, object]]:
    """Return what holds it, and what would help."""
    fields: list[tuple[str, object]] = [("because", told.because)]
    if told.helped_by:
        fields += [("held by", told.hold), ("helped by", told.helped_by)]
    return fields


def start_in_words(told: JobExplanation | DeploymentExplanation) -> str:
    """Return about when it starts and what tells that, as far as somebody can."""
    if told.estimated_start_at is None:
        return "-"
    about = f"about {told.estimated_start_at:%Y-%m-%dT%H:%MZ}"
    by = _BASES.get(told.estimate_basis or "")
    return about if by is None else f"{about}, {by}"


def standing_of(job: Job) -> str:
    """Return why a job is in its state; of an array first how its elements stand."""
    if job.array is None:
        return job.reason
    counts = elements_in_words(job.array.elements)
    reason = "" if job.reason == SUBMITTED else job.reason
    return "; ".join(filter(None, (counts, reason)))


def elements_in_words(elements: Mapping[str, int]) -> str:
    """Return how many elements are in which state: `90 QUEUED, 10 RUNNING`."""
    ordered = sorted(elements, key=lambda state: (*JOB_STATES, state).index(state))
    return ", ".join(f"{elements[state]} {state}" for state in ordered if elements[state])
