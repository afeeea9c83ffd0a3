"""Why a job or a deployment's replica waits, as the command line shows it."""

from datetime import datetime

from modelyard.client import DeploymentExplanation, JobExplanation


def reason_fields(told: JobExplanation | DeploymentExplanation) -> list[tuple[str, object]]:
    """Return what holds it, and what would help."""
    fields: list[tuple[str, object]] = [("because", told.because)]
    if told.helped_by:
        fields += [("held by", told.hold), ("helped by", told.helped_by)]
    return fields


def start_in_words(start_at: datetime | None) -> str:
    """Return about when it starts, as far as somebody can tell."""
    if start_at is None:
        return "-"
    return f"about {start_at:%Y-%m-%dT%H:%MZ}, if all runs to its limit"
